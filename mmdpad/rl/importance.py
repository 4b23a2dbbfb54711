# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Correct the mismatch between the engine that samples and the model that is trained."""

from __future__ import annotations

from torch import Tensor


def truncated_importance(logp: Tensor, sampling_logp: Tensor, cap: float) -> Tensor:
    """``min(exp(logp - sampling_logp), cap)``: the weight of each token in truncated importance
    sampling (TIS; Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training", https://fengyao.notion.site/off-policy-rl).

    Up to the tokens whose weight is capped, a gradient weighted this way has the same expectation
    as with tokens that the model itself sampled.

    Args:
        logp: (N, T) float, log-probabilities under the trained model, before its update.
        sampling_logp: (N, T) float, those under the engine that sampled.
        cap: The largest weight, at least 1.

    Returns:
        (N, T) float in (0, cap], without gradients.
    """
    return (logp - sampling_logp).exp().clamp(max=cap).detach()


def check_importance_cap(cap: float | None) -> None:
    """Raise a ValueError unless it is None or at least 1."""
    if cap is not None and not cap >= 1:
        raise ValueError(f'`importance_cap` should be None or at least 1 (the weight of a token '
                         f'without mismatch), but got {cap}')
