# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A baseline without training: the policy names a phrase, the decoder finds its instances, and the
policy accepts or rejects each."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from mmdpad.geometry.coordinates import scale_boxes
from mmdpad.models.decoders import ConceptDecoder
from mmdpad.models.decoders.instances import Instances
from mmdpad.models.non_finite import naming_samples
from mmdpad.prompts.agent import (
    PHRASE_TEMPLATE,
    VERDICT_TEMPLATE,
    parse_phrase,
    parse_verdict,
    retry_template,
)
from mmdpad.registry import MODELS
from mmdpad.structures import AnsweredObject, ParseFailure, ReasoningOutput
from mmdpad.utils.number_checks import check_number

from .mask_turns import outline
from .reasoning_segmentor import Inputs, ReasoningSegmentor


@MODELS.register_module()
class ConceptAgent(ReasoningSegmentor):
    """Answers with the instances of a phrase that a policy names and then accepts one by one.

    In each round the policy gets the image and the question and writes a short noun phrase; the
    decoder finds all instances of it; and the policy sees the image with each of them outlined and
    writes whether to accept it. The accepted ones are the answer. If none is, a new round names the
    phrases that were tried; after ``max_rounds``, the answer is a failure ('no_mask'), or means "no
    target" with ``several_objects`` if there was a phrase. A response without a phrase, or with one
    that was tried, ends the search; one without a verdict rejects. SAM 3's authors publish an agent
    of this kind, with tools that the model calls; here the order is fixed and nothing depends on
    tool calls.

    The prompts are those of :mod:`mmdpad.prompts.agent`, in any evaluation. Training is that of
    :class:`ReasoningSegmentor`, with the policy's own prompt.

    Args:
        policy: See :class:`ReasoningSegmentor`.
        decoder: Config of a :class:`mmdpad.models.ConceptDecoder`.
        max_rounds: Maximum number of phrases.
        max_instances: Maximum number of instances of a phrase that are looked at, the most
            confident first.
        **kwargs: Arguments of :class:`ReasoningSegmentor`.

    Raises:
        ValueError: The decoder takes no text, a limit is below 1, or a task decodes no masks.
    """

    decoder: ConceptDecoder
    test_templates = dict(phrase=PHRASE_TEMPLATE, verdict=VERDICT_TEMPLATE)
    writes_one_response = False  # to a question, which could be shown while it is written

    def __init__(self, policy: dict, decoder: dict, max_rounds: int = 3, max_instances: int = 8,
                 **kwargs: Any) -> None:
        check_limits(max_rounds, max_instances, kwargs.get('test_cfg'), kwargs.get('conversation'))
        super().__init__(policy, decoder, **kwargs)
        if not isinstance(self.decoder, ConceptDecoder):
            raise ValueError(describe_unsuitable(type(self.decoder)))
        if without := [name for name, task in self.tasks.items() if not task.decodes_masks]:
            raise ValueError(f'`tasks` of ConceptAgent, whose answers are masks, should decode '
                             f'masks, but {without} do not; leave them out')
        self.max_rounds, self.max_instances = max_rounds, max_instances
        self.decoder_config = copy.deepcopy(decoder)

    @property
    def protocol(self) -> dict[str, Any]:
        """Options on which answers depend, for result files and stored answers."""
        return dict(prompt_template=PHRASE_TEMPLATE, agent=dict(
            retry_template=retry_template(['...']), verdict_template=VERDICT_TEMPLATE,
            max_rounds=self.max_rounds, max_instances=self.max_instances))

    def answer_ahead(self, batches: Iterable[dict[str, Any]]
                     ) -> Generator[dict[str, Any], None, None]:
        """Yield the batches as they are: what is asked next depends on the masks."""
        yield from batches

    @torch.no_grad()
    def predict(self, inputs: Inputs, data_samples: list[DetDataSample],
                **kwargs: Any) -> list[DetDataSample]:
        """Answer each question.

        Args:
            inputs, data_samples: See :class:`ReasoningSegmentor`. A sample with
                ``cached_response`` uses the policy's responses in it, in their order.

        Returns:
            The data samples with ``pred_instances`` (``bboxes`` (n, 4), the tight boxes of the
            ``masks`` bool (n, H, W), ``scores`` (n,), ``labels`` (n,)) for the accepted instances;
            and ``reasoning`` as of :class:`ReasoningSegmentor`, where ``response`` is a JSON list
            of all responses, with ``calls``: ``vlm_calls``, ``sam_calls`` and
            ``generated_tokens``.
        """
        self._name_tasks(data_samples)
        for row, sample in enumerate(data_samples):
            self._answer(Conversation(self, inputs, row, sample))
        return data_samples

    def _answer(self, talk: Conversation) -> None:
        """Answer one question."""
        started, accepted, draw = time.perf_counter(), None, 0.0
        image = talk.image.permute(1, 2, 0).cpu().numpy()
        tried: list[str] = []
        for _ in range(self.max_rounds):
            phrase = parse_phrase(talk.ask_phrase(tried))
            if not phrase or phrase in tried:
                break  # the next prompt would be the same
            tried.append(phrase)
            before = time.perf_counter()
            found = self.decoder.find(image, phrase)
            draw += time.perf_counter() - before
            talk.sam_calls += 1
            keep = [parse_verdict(text) is True
                    for text in talk.ask_verdicts(found.masks[:self.max_instances].numpy())]
            if any(keep):
                rows = torch.tensor(keep).nonzero()[:, 0]
                accepted = Instances.of(self.decoder.clean(found.masks[rows]), found.scores[rows])
                break
        talk.finish(accepted, tried, dict(answer=time.perf_counter() - started - draw, draw=draw))


class Conversation:
    """The calls of a policy about one question, and what comes of them.

    Args:
        agent: The agent.
        inputs, data_sample, row: The batch, the sample and its row in the batch.
    """

    def __init__(self, agent: ConceptAgent, inputs: Inputs, row: int,
                 data_sample: DetDataSample) -> None:
        self.agent, self.sample = agent, data_sample
        self.image, self.model_image = inputs['image'][row], inputs['model_image'][row]
        text, truncated = data_sample.get('cached_response') or ('', False)
        self.stored = _read_stored(text)
        self.texts: list[str] = []
        self.truncated, self.sam_calls = bool(truncated), 0

    def ask_phrase(self, tried: Sequence[str]) -> str:
        """The policy's response to the prompt for a phrase other than those tried."""
        if not tried:
            return self._ask([self.model_image], PHRASE_TEMPLATE)[0]
        template = retry_template(tried)
        # The phrases are the policy's text, which must not end an evaluation by its length.
        return self._ask([self.model_image], template,
                         more_tokens=self.agent.policy.count_tokens(template))[0]

    def ask_verdicts(self, masks: np.ndarray) -> list[str]:
        """The policy's responses to the prompts for a verdict on each mask (n, H, W) bool."""
        return self._ask([outline(self.model_image, mask) for mask in masks], VERDICT_TEMPLATE)

    def _ask(self, images: Sequence[Tensor], template: str, more_tokens: int = 0) -> list[str]:
        """One response about each model image, stored or sampled. A prompt may have ``more_tokens``
        than the policy's limit."""
        count, agent = len(images), self.agent
        if count and len(self.stored) >= count:
            texts, self.stored = self.stored[:count], self.stored[count:]
        elif count:
            self.stored = []
            encoder = agent.policy.encoder.with_template(template)
            encoder.max_tokens += more_tokens
            prompts = [encoder(image, self.sample.question) for image in images]
            first = self.sample.get('sample_idx', 0) * 1000 + len(self.texts)
            with naming_samples([self.sample] * count):
                found = agent.rollout_engine(agent.policy, prompts, **agent.test_cfg,
                                             prompt_numbers=range(first, first + count))
            texts = agent.policy.decode(found.ids.where(found.mask, agent.policy.pad_token))
            self.truncated |= bool(found.truncated.any())
        else:
            texts = []
        self.texts += texts
        return texts

    def finish(self, accepted: Instances | None, tried: Sequence[str],
               seconds: dict[str, float]) -> None:
        """Write the answer into the sample."""
        height, width = self.image.shape[-2:]
        agent, phrase = self.agent, tried[-1] if tried else None
        parsed: ReasoningOutput | ParseFailure = ReasoningOutput(None, phrase, ())
        if accepted is None:
            accepted = Instances.of(torch.zeros(0, height, width, dtype=torch.bool),
                                    torch.zeros(0))
            several = agent.task_of(self.sample).several_objects
            if not (several and tried):  # without a phrase, nothing was looked for
                parsed = ParseFailure('no_mask', f'no mask was accepted for {len(tried)} phrases',
                                      None, phrase)
        else:
            rows, columns = self.model_image.shape[-2:]
            boxes = scale_boxes(accepted.boxes, (height, width), (rows, columns)).tolist()
            parsed = ReasoningOutput(None, phrase, tuple(
                AnsweredObject(tuple(box), None) for box in boxes))
        self.sample.pred_instances = InstanceData(
            bboxes=accepted.boxes, masks=accepted.masks[:], scores=accepted.scores,
            labels=torch.zeros(len(accepted.scores), dtype=torch.long))
        self.sample.reasoning = dict(
            response=json.dumps(self.texts), truncated=self.truncated, parsed=parsed,
            reasoning_tokens=None, caption_tokens=agent.policy.count_tokens(phrase),
            seconds=seconds, calls=dict(
                vlm_calls=len(self.texts), sam_calls=self.sam_calls,
                generated_tokens=sum(map(agent.policy.count_tokens, self.texts))))


def check_limits(max_rounds: int = 3, max_instances: int = 8,
                 test_cfg: Mapping[str, Any] | None = None,
                 conversation: Mapping[str, Any] | None = None) -> None:
    """Raise ValueError unless these are limits of a :class:`ConceptAgent`, which answers in several
    steps, so that ``test_cfg`` should not ask for several answers, nor for conversations."""
    for name, value in {'test_cfg.num_samples': (test_cfg or {}).get('num_samples'),
                        'conversation': conversation}.items():
        if value is not None:
            raise ValueError(f'`{name}` should be None for ConceptAgent, which answers in several '
                             f'steps, but got {value!r}; leave it out')
    for name, limit in dict(max_rounds=max_rounds, max_instances=max_instances).items():
        check_number(name, limit, 'at least 1', lambda n: n >= 1, whole=True)


def describe_unsuitable(kind: type) -> str:
    """Say that an agent cannot use this class of decoder."""
    return (f'`decoder` of ConceptAgent should find the instances of a text, as SAM3ConceptDecoder '
            f'does, but got {kind.__name__}; use such a decoder')


def _read_stored(text: str) -> list[str]:
    """The responses in a stored answer; none if it is not one of an agent."""
    try:
        texts = json.loads(text)
    except ValueError:
        return []
    return texts if isinstance(texts, list) and all(isinstance(t, str) for t in texts) else []
