# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Reduce per-token values to a scalar. N sequences, T tokens, padded on any side."""

from __future__ import annotations

import torch
from torch import Tensor

from mmdpad.structures import LossScale

AGGREGATIONS = ('seq_mean_token_mean', 'token_mean', 'seq_mean_token_sum_norm')


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
        aggregation: One of the names above. The reference's micro-batches of one sequence amount
            to the first.
        max_tokens: The constant length in 'seq_mean_token_sum_norm'.
        scale: Replaces N and the number of tokens if this is a part of a batch.

    Returns:
        Scalar. A sequence without tokens counts as 0.

    Raises:
        ValueError: The aggregation is unknown, or needs ``max_tokens`` and it is not positive.
    """
    check_aggregation(aggregation, max_tokens)
    mask = mask.bool()
    # The value of a token that does not count may be anything, even infinite.
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
