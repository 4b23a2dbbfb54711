# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Estimates of KL(policy || reference) from sampled tokens."""

from __future__ import annotations

import torch
from torch import Tensor

KL_ESTIMATORS = ('k1', 'k2', 'k3', 'k3_unbiased')


def approximate_kl(logp: Tensor, ref_logp: Tensor, estimator: str = 'k3',
                   old_logp: Tensor | None = None) -> Tensor:
    """The KL estimate of each token; d = logp - ref_logp (http://joschu.net/blog/kl-approx.html).

    ===========  ===================  ==========  ================================================
    estimator    value                range       as a term of the loss
    ===========  ===================  ==========  ================================================
    k1           d                    any         expected gradient is 0: use it in the reward
    k2           d^2 / 2              >= 0        on-policy, has the gradient of the true KL
    k3           exp(-d) + d - 1      [0, 10]     GRPO's choice; verl's ``low_var_kl``
    k3_unbiased  w * k3               >= 0        has the gradient of the true KL for samples of
                                                  the old policy (DeepSeek-V3.2, arXiv 2512.02556,
                                                  section 3.1); TRL's ``use_bias_correction_kl``
    ===========  ===================  ==========  ================================================

    w = exp(logp - old_logp), through which gradients flow: that of w * k3 is w * d times that of
    logp, also where its value is clamped. That of k3 is 1 - exp(-d) instead, down to -12.6.

    k3 clamps d to [-20, 20] and the estimate to at most 10, as verl does, and has no gradient
    there: a token whose probability is below 1/13.6 of the reference's is not pulled back. k2 and
    k3_unbiased pull it. k3 is computed as expm1(-d) + d and clamped at 0, because exp(-d) - 1 has
    an error of 6e-8 of either sign in float32, which exceeds the estimate itself for d below 3e-4.

    Args:
        logp, ref_logp: (N, T) float, log-probabilities of the sampled tokens.
        estimator: One of the names above.
        old_logp: (N, T) float, those under the policy before its update; None if that is the same
            as the current one.

    Returns:
        (N, T) float.

    Raises:
        ValueError: Unknown estimator.
    """
    check_kl_estimator(estimator)
    difference = logp - ref_logp
    if estimator == 'k1':
        return difference
    if estimator == 'k2':
        return difference.square() / 2
    difference = (ref_logp - logp).clamp(-20, 20)
    kl = (difference.expm1() - difference).clamp(0, 10)
    if estimator == 'k3':
        return kl
    current = logp.detach()
    ratio = torch.ones_like(kl) if old_logp is None else (current - old_logp).exp()
    return ratio * (kl.detach() + (current - ref_logp) * (logp - current))


def check_kl_estimator(estimator: str) -> None:
    """Raise the ValueError of :func:`approximate_kl`."""
    if estimator not in KL_ESTIMATORS:
        raise ValueError(f'`kl_estimator` should be one of {KL_ESTIMATORS}, but got {estimator!r}')
