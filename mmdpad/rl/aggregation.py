# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""From a value per token to one number. N sequences, T tokens, padded on any side."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

AGGREGATIONS = ('seq_mean_token_mean', 'token_mean', 'seq_mean_token_sum_norm')


class LossScale(NamedTuple):
    """What a mean divides by, where the tensors at hand are only a part of the batch.

    The sum of the parts' losses is then that of the whole batch, however it is cut into
    micro-batches and spread over processes.

    Attributes:
        sequences: Sequences with a token that counts, per part on average.
        tokens: Tokens that count, per part on average.
    """

    sequences: float
    tokens: float

    @classmethod
    def of(cls, mask: Tensor, parts: int = 1) -> LossScale:
        """The scale of a mask (N, T) that is cut into ``parts``."""
        return cls(float(mask.bool().any(dim=1).sum()) / parts, float(mask.sum()) / parts)


def aggregate(values: Tensor,
              mask: Tensor,
              aggregation: str = 'seq_mean_token_mean',
              max_tokens: int | None = None,
              scale: LossScale | None = None) -> Tensor:
    """Reduce per-token values to a scalar.

    ========================  ===========================================  =======================
    aggregation               value (m_i: tokens of sequence i)            source
    ========================  ===========================================  =======================
    seq_mean_token_mean       1/N sum_i 1/m_i sum_t v_it                   GRPO, arXiv 2402.03300
    token_mean                sum_it v_it / sum_i m_i                      DAPO, arXiv 2503.14476
    seq_mean_token_sum_norm   1/N sum_i 1/max_tokens sum_t v_it            Dr. GRPO, 2503.20783
    ========================  ===========================================  =======================

    Args:
        values: (N, T) float.
        mask: (N, T) bool or 0/1, True for tokens that count.
        aggregation: One of the names above. The first is what the reference's micro-batches of
            one sequence amount to.
        max_tokens: The constant length of 'seq_mean_token_sum_norm'.
        scale: Instead of N and the number of tokens, where this is a part of a batch.

    Returns:
        Scalar. A sequence without tokens counts as 0.

    Raises:
        ValueError: Unknown aggregation, or one that lacks ``max_tokens``.
    """
    check_aggregation(aggregation, max_tokens)
    mask = mask.bool()
    # Where a token does not count its value may be anything, infinities included.
    values = torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))
    scale = scale or LossScale(len(mask), float(mask.sum()))
    if aggregation == 'token_mean':
        return values.sum() / (scale.tokens or 1)
    per_sequence = values.sum(dim=1)
    if aggregation == 'seq_mean_token_mean':
        per_sequence = per_sequence / mask.sum(dim=1).clamp(min=1)
    else:
        per_sequence = per_sequence / float(max_tokens or 1)
    return per_sequence.sum() / (scale.sequences or 1)


def check_aggregation(aggregation: str, max_tokens: int | None = None) -> None:
    """Raise the ValueErrors of :func:`aggregate`."""
    if aggregation not in AGGREGATIONS:
        raise ValueError(f'`aggregation` should be one of {AGGREGATIONS}, but got {aggregation!r}')
    if aggregation == 'seq_mean_token_sum_norm' and not (max_tokens and max_tokens > 0):
        raise ValueError(f'`max_tokens` should be positive for {aggregation!r}, but got '
                         f'{max_tokens}')
