# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Collects the answers to questions, of which some are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mmdet.structures import DetDataSample
from torch import Tensor

from mmdpad.geometry.coordinates import shape_of
from mmdpad.structures import ConversationRecord, read_turns
from mmdpad.tasks import Parsed

from .answering_ahead import Inputs, own_tokens, select_samples
from .conversing import read_conversation
from .mask_turns import prepare_mask

if TYPE_CHECKING:
    from .reasoning_segmentor import ReasoningSegmentor


def find_answers(model: ReasoningSegmentor, inputs: Inputs,
                 data_samples: Sequence[DetDataSample]) -> list[dict[str, Any]]:
    """Get the answer to each of B questions, or hold a conversation about each. The draws depend on
    the item's index in the data set (0 if it has none), and not on the batch.

    Args:
        model: The model.
        inputs, data_samples: See :meth:`.ReasoningSegmentor.predict`. Samples may have
            ``cached_response`` (response, truncated), of a conversation with all turns
            (:func:`mmdpad.structures.write_turns`), of which only what they saw is found out again;
            or ``sampled_response`` (the same, the tokens, and seconds).

    Returns:
        ``response``, ``truncated``, ``response_ids`` ((r,) long, None of a cached response),
        ``parsed`` and ``reasoning_tokens`` (None without reasoning) of each. Of a conversation also
        ``conversation``, the :class:`mmdpad.structures.ConversationRecord`, and ``response`` has
        all turns.
    """
    found: dict[int, dict[str, Any]] = {}
    for row, sample in enumerate(data_samples):
        if known := sample.get('cached_response') or sample.get('sampled_response'):
            found[row] = _recall(model, inputs, data_samples, row, *known[:3])
    if missing := [row for row in range(len(data_samples)) if row not in found]:
        some, samples, numbers = select_samples(inputs, data_samples, missing)
        rollout = model.finish_rollout(model._start(some, samples, **model.test_cfg,
                                                    prompt_numbers=numbers))
        tokens = [None if math.isnan(n) else int(n) for n in rollout.reasoning_tokens.tolist()]
        records: Sequence[ConversationRecord | None] = (
            rollout.conversations or [None] * len(missing))
        found |= zip(missing, map(
            _answer, rollout.texts, rollout.truncated.tolist(),
            own_tokens(rollout.response_ids, rollout.response_mask), rollout.parsed, tokens,
            records), strict=True)
    return [found[row] for row in range(len(data_samples))]


def _recall(model: ReasoningSegmentor, inputs: Inputs, data_samples: Sequence[DetDataSample],
            row: int, response: str, truncated: bool, ids: Tensor | None = None
            ) -> dict[str, Any]:
    """Read a response that is known."""
    sample, model_image = data_samples[row], inputs['model_image'][row]
    if model.conversations is None:
        return _answer(response, truncated, ids, *model._read(response, model_image, sample))
    image = inputs['image'][row]
    record = model.conversations.replay(
        read_turns(response) or [response], truncated, shape_of(image), shape_of(model_image),
        partial(prepare_mask, model, inputs, data_samples, row))
    return _answer(response, truncated, ids,
                   *read_conversation(model, record, image, model_image, sample), record)


def _answer(text: str, truncated: bool, ids: Tensor | None, parsed: Parsed, tokens: int | None,
            record: ConversationRecord | None = None) -> dict[str, Any]:
    """An answer as :func:`find_answers` returns it."""
    answer = dict(response=text, truncated=truncated, response_ids=ids, parsed=parsed,
                  reasoning_tokens=tokens)
    return answer if record is None else answer | dict(response=record.response,
                                                       conversation=record)
