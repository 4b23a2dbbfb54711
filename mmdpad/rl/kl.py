# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Estimates of KL(policy || reference) from sampled tokens."""

from __future__ import annotations

from torch import Tensor

KL_ESTIMATORS = ('k1', 'k2', 'k3')


def approximate_kl(logp: Tensor, ref_logp: Tensor, estimator: str = 'k3') -> Tensor:
    """The KL estimate of each token; d = logp - ref_logp (http://joschu.net/blog/kl-approx.html).

    =========  ===================  ==========  ==================================================
    estimator  value                range       as a term of the loss
    =========  ===================  ==========  ==================================================
    k1         d                    any         expected gradient is 0: use it in the reward
    k2         d^2 / 2              >= 0        on-policy, has the gradient of the true KL
    k3         exp(-d) + d - 1      [0, 10]     GRPO's choice; verl's ``low_var_kl``
    =========  ===================  ==========  ==================================================

    k3 clamps d to [-20, 20] and the estimate to at most 10, as verl does. It is computed as
    expm1(-d) + d and clamped at 0, because exp(-d) - 1 has an error of 6e-8 of either sign in
    float32, which exceeds the estimate itself for d below 3e-4.

    Args:
        logp, ref_logp: (N, T) float, log-probabilities of the sampled tokens.
        estimator: One of the names above.

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
    return (difference.expm1() - difference).clamp(0, 10)


def check_kl_estimator(estimator: str) -> None:
    """Raise the ValueError of :func:`approximate_kl`."""
    if estimator not in KL_ESTIMATORS:
        raise ValueError(f'`kl_estimator` should be one of {KL_ESTIMATORS}, but got {estimator!r}')
