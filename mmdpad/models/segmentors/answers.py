# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Collects the answers to questions, of which some are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from mmdet.structures import DetDataSample
from torch import Tensor

from mmdpad.structures import RolloutBatch
from mmdpad.tasks import Parsed

from .answering_ahead import own_tokens

_NAMES = ('response', 'truncated', 'response_ids', 'parsed', 'reasoning_tokens')


def find_answers(data_samples: Sequence[DetDataSample], images: Sequence[Tensor],
                 read: Callable[[str, Tensor, DetDataSample], tuple[Parsed, int | None]],
                 ask: Callable[[list[int]], RolloutBatch]) -> list[dict[str, Any]]:
    """Get the answer to each of B questions.

    Args:
        data_samples: B samples, some with ``cached_response`` (response, truncated) or with
            ``sampled_response`` (the same, the tokens, and seconds).
        images: B model images (3, h, w).
        read: Response, image and sample -> parsed answer and tokens of the reasoning.
        ask: Samples a response to each question of some rows.

    Returns:
        ``response``, ``truncated``, ``response_ids`` ((r,) long, None of a cached response),
        ``parsed`` and ``reasoning_tokens`` (None without reasoning) of each.
    """
    answers: list[Any] = [None] * len(data_samples)
    for row, (sample, image) in enumerate(zip(data_samples, images, strict=True)):
        if (cached := sample.get('cached_response')) is not None:
            answers[row] = (*cached, None, *read(cached[0], image, sample))
        elif (sampled := sample.get('sampled_response')) is not None:
            answers[row] = (*sampled[:3], *read(sampled[0], image, sample))
    if missing := [row for row, answer in enumerate(answers) if answer is None]:
        rollout = ask(missing)
        tokens = [None if math.isnan(n) else int(n) for n in rollout.reasoning_tokens.tolist()]
        for row, *answer in zip(missing, rollout.texts, rollout.truncated.tolist(),
                                own_tokens(rollout.response_ids, rollout.response_mask),
                                rollout.parsed, tokens, strict=True):
            answers[row] = answer
    return [dict(zip(_NAMES, answer, strict=True)) for answer in answers]
