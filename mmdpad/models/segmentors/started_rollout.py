# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A rollout whose responses may still be sampled."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from mmdpad.models.non_finite import naming_samples
from mmdpad.models.rollouts.conversations import Conversation
from mmdpad.models.rollouts.sampling import Responses
from mmdpad.structures import RolloutBatch

from .conversing import read_conversation

if TYPE_CHECKING:
    from .reasoning_segmentor import ReasoningSegmentor


@dataclass
class StartedRollout:
    """What :meth:`.ReasoningSegmentor.start_rollout` hands to ``finish_rollout``.

    Attributes:
        inputs, data_samples: The batch.
        prompts: B encoded prompts.
        sampling: Arguments of the rollout engine.
        future: The responses.
        talks: B * G conversations, whose tokens are the responses; None without.
    """

    inputs: dict[str, list[Tensor]]
    data_samples: list[DetDataSample]
    prompts: list[Any]
    sampling: dict[str, Any]
    future: Future[Responses]
    talks: list[Conversation] | None = None

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what the responses answer: tokens and images of the prompts, and settings."""
        found = hashlib.sha256(repr(sorted(self.sampling.items())).encode())
        for prompt, image in zip(self.prompts, self.inputs['model_image'], strict=True):
            for tensor in (prompt.input_ids, image):
                found.update(repr(tensor.shape).encode() + tensor.cpu().numpy().tobytes())
        return found.hexdigest()


def finish(model: ReasoningSegmentor, started: StartedRollout) -> RolloutBatch:
    """See :meth:`.ReasoningSegmentor.finish_rollout`."""
    with naming_samples(started.data_samples):
        responses = started.future.result()
    inputs, group_size = started.inputs, started.sampling.get('group_size', 1)
    asked = [(image, sample) for image, sample in zip(
        inputs['model_image'], started.data_samples, strict=True) for _ in range(group_size)]
    records = replies = None
    if started.talks is None:
        texts = model.policy.decode(responses.ids.where(responses.mask, model.policy.pad_token))
        read = [model._read(text, *about) for text, about in zip(texts, asked, strict=True)]
    else:
        records = [talk.record for talk in started.talks]
        replies = [talk.replies for talk in started.talks]
        texts = [record.texts[-1] for record in records]
        read = [read_conversation(model, record, inputs['image'][n // group_size], *asked[n])
                for n, record in enumerate(records)]
    return RolloutBatch(
        data_samples=started.data_samples, model_images=inputs['model_image'],
        images=inputs.get('image'), prompts=started.prompts, group_size=group_size, texts=texts,
        parsed=[parsed for parsed, _ in read], response_ids=responses.ids,
        response_mask=responses.mask, truncated=responses.truncated, sampling_logp=responses.logp,
        reasoning_tokens=torch.tensor([torch.nan if n is None else float(n) for _, n in read]),
        replies=replies, conversations=records)
