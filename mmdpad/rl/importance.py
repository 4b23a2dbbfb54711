# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The mismatch between the engine that samples and the model that learns, and its correction."""

from __future__ import annotations

from torch import Tensor


def truncated_importance(logp: Tensor, sampling_logp: Tensor, cap: float) -> Tensor:
    """``min(exp(logp - sampling_logp), cap)``: the weight of each token in truncated importance
    sampling (TIS; Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training", https://fengyao.notion.site/off-policy-rl).

    A gradient weighted so has the expectation of tokens that the model itself samples, up to the
    tokens whose weight is cut.

    Args:
        logp: (N, T) float, log-probabilities under the model that learns, before its update.
        sampling_logp: (N, T) float, those under the engine that sampled.
        cap: At least 1.

    Returns:
        (N, T) float in (0, cap], without gradients.
    """
    return (logp - sampling_logp).exp().clamp(max=cap).detach()


def check_importance_cap(cap: float | None) -> None:
    """Raise a ValueError unless it is None or a number of at least 1."""
    if cap is not None and not cap >= 1:
        raise ValueError(f'`importance_cap` should be None or at least 1 (the weight of a token '
                         f'without a mismatch), but got {cap}')
