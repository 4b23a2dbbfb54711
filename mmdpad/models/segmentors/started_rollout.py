# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A rollout whose responses may still be sampled."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmdet.structures import DetDataSample
from torch import Tensor

from mmdpad.models.rollouts.sampling import Responses


@dataclass
class StartedRollout:
    """What :meth:`.ReasoningSegmentor.start_rollout` hands to ``finish_rollout``.

    Attributes:
        inputs, data_samples: The batch.
        prompts: B encoded prompts.
        sampling: Arguments of the rollout engine.
        future: The responses.
    """

    inputs: dict[str, list[Tensor]]
    data_samples: list[DetDataSample]
    prompts: list[Any]
    sampling: dict[str, Any]
    future: Future[Responses]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what the responses answer: tokens and images of the prompts, and settings."""
        found = hashlib.sha256(repr(sorted(self.sampling.items())).encode())
        for prompt, image in zip(self.prompts, self.inputs['model_image'], strict=True):
            for tensor in (prompt.input_ids, image):
                found.update(repr(tensor.shape).encode() + tensor.cpu().numpy().tobytes())
        return found.hexdigest()
