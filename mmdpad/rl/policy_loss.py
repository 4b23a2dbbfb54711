# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The GRPO objective over token log-probabilities. N sequences, T tokens, padded on any side."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmdpad.structures import LossScale

from .aggregation import aggregate, check_aggregation
from .importance import (
    IMPORTANCE_LEVELS,
    check_importance,
    importance_weights,
    off_policy_mask,
)
from .kl import approximate_kl, check_kl_estimator

RATIO_LEVELS = ('token', 'sequence')
SURROGATES = ('clip', 'cispo')


def policy_loss(logp: Tensor,
                old_logp: Tensor,
                advantages: Tensor,
                mask: Tensor,
                *,
                ref_logp: Tensor | None = None,
                clip_ratio: float = 0.2,
                clip_ratio_high: float | None = None,
                ratio_level: str = 'token',
                surrogate: str = 'clip',
                kl_coef: float = 0.0,
                kl_estimator: str = 'k3',
                entropy: Tensor | None = None,
                entropy_coef: float = 0.0,
                aggregation: str = 'seq_mean_token_mean',
                max_tokens: int | None = None,
                sampling_logp: Tensor | None = None,
                importance_cap: float | None = None,
                importance_level: str = 'token',
                importance_mode: str = 'truncate',
                importance_floor: float = 0.0,
                off_policy_mask_threshold: float | None = None,
                surrogate_mask: Tensor | None = None,
                scale: LossScale | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate + KL to the reference - entropy (GRPO, arXiv 2402.03300, eq. 3).

    ``loss = pg_loss + kl_coef * kl_loss - entropy_coef * entropy``, each term reduced by
    :func:`aggregate`. With the ratio w, l = 1 - clip_ratio and h = 1 + clip_ratio_high, the value
    of pg_loss per token is

    =========  ================================  ==============================================
    surrogate  value                             source
    =========  ================================  ==============================================
    clip       max(-A * w, -A * clip(w, l, h))   PPO, GRPO; separate h: DAPO, 2503.14476
    cispo      -A * stop_grad(min(w, h)) * logp  CISPO of MiniMax-M1, arXiv 2506.13585, eq. 4-5
    =========  ================================  ==============================================

    and the ratio is

    ===========  =======================================  =====================================
    ratio_level  w                                        source
    ===========  =======================================  =====================================
    token        exp(logp - old_logp)                     PPO, GRPO
    sequence     exp(mean over tokens of the difference)  GSPO, arXiv 2507.18071, eq. 7
    ===========  =======================================  =====================================

    With ``importance_cap`` each token's surrogate is multiplied by its weight, see
    :func:`importance_weights` of ``old_logp`` and ``sampling_logp``. Tokens with weight 0 still
    count where a term is averaged, and so do those that a mask leaves out of the surrogate. With
    rollouts of older weights this is the decoupled objective (Hilton et al. 2021, arXiv 2110.00641;
    AReaL, 2505.24298): the ratio is clipped around ``old_logp``, and the weights correct for the
    policy that sampled. They multiply the estimate 'k3_unbiased', too, which refers to
    ``old_logp``.

    Args:
        logp: (N, T) float, log-probabilities under the policy being updated; gradients flow.
        old_logp: (N, T) float, those under the policy before its update, by the same model code.
        advantages: (N,) or (N, T) float.
        mask: (N, T) bool or 0/1, True for tokens that the policy chose.
        ref_logp: (N, T) float, those under the frozen start policy; required if ``kl_coef`` > 0.
        clip_ratio: How far the ratio may fall below 1.
        clip_ratio_high: How far it may rise above 1; None for the same as ``clip_ratio``.
        ratio_level, surrogate: See above.
        kl_coef: Weight of the KL estimate.
        kl_estimator: See :func:`approximate_kl`.
        entropy: (N, T) float, entropy of the policy at each token, in nats; gradients flow.
        entropy_coef: Weight of the mean entropy (a bonus).
        aggregation, max_tokens, scale: See :func:`aggregate`.
        sampling_logp: (N, T) float, those under the policy that sampled, as recorded by the
            rollout engine; required with ``importance_cap``.
        importance_cap: At least 1, or None for no correction.
        importance_level, importance_mode, importance_floor: See :func:`importance_weights`.
        off_policy_mask_threshold: The surrogate is 0 for bad responses that the policy would hardly
            write any more, see :func:`off_policy_mask`; None keeps all. The policy that sampled is
            ``sampling_logp``, or else ``old_logp``.
        surrogate_mask: (N, T) bool, False for tokens whose surrogate is 0; None keeps all.

    Returns:
        The scalar loss, and detached scalars: ``pg_loss``, ``kl_loss`` (0 without a reference),
        ``clip_frac`` (fraction of tokens whose ratio is clipped), ``approx_kl`` (mean of old_logp -
        logp over tokens: KL of the step), ``entropy`` if given, and with ``sampling_logp``
        ``mismatch/kl`` (mean over tokens of the k3 estimate of KL(engine || old policy)),
        ``mismatch/max_ratio`` (largest ratio between old policy and engine, in either direction)
        and, with ``importance_cap``, ``mismatch/clipped`` (fraction of tokens whose weight is
        capped or masked) and, for :func:`effective_sample_sizes`, the mean weights
        ``importance/tokens`` and ``importance/sequences`` (by either level) and the means of their
        squares, ``importance/..._squared``. With ``off_policy_mask_threshold``, there is
        ``off_policy_masked``, the fraction of responses that it leaves out.

    Raises:
        ValueError: Shapes differ, a coefficient is set without the tensor it weighs, or an option
            has an unknown value.
    """
    check_objective(clip_ratio=clip_ratio, clip_ratio_high=clip_ratio_high,
                    ratio_level=ratio_level, surrogate=surrogate, kl_estimator=kl_estimator,
                    aggregation=aggregation, max_tokens=max_tokens,
                    importance_cap=importance_cap, importance_level=importance_level,
                    importance_mode=importance_mode, importance_floor=importance_floor,
                    off_policy_mask_threshold=off_policy_mask_threshold)
    if logp.dim() != 2 or not logp.shape == old_logp.shape == mask.shape:
        raise ValueError('`logp`, `old_logp` and `mask` should have the same shape (N, T), but got '
                         f'{tuple(logp.shape)}, {tuple(old_logp.shape)}, {tuple(mask.shape)}')
    for coefficient, tensor, name in ((kl_coef, ref_logp, 'ref_logp'),
                                      (entropy_coef, entropy, 'entropy'),
                                      (importance_cap, sampling_logp, 'sampling_logp')):
        if coefficient and tensor is None:
            raise ValueError(f'`{name}` should be given if its coefficient or cap is set, but got '
                             f'None with {coefficient}')

    def mean(values: Tensor) -> Tensor:
        return aggregate(values, mask, aggregation, max_tokens, scale)

    def token_mean(values: Tensor) -> Tensor:
        return aggregate(values, mask, 'token_mean', scale=scale)

    def sequence_mean(values: Tensor) -> Tensor:
        return aggregate(values, mask, 'seq_mean_token_mean', scale=scale)

    def chosen(values: Tensor) -> Tensor:
        return torch.where(mask.bool(), values, torch.zeros_like(values))

    logp = chosen(logp)  # padding may contain anything, even infinities
    old_logp = chosen(old_logp)
    log_ratio = logp - old_logp
    per_token, is_clipped = _surrogate(
        logp, _ratio(log_ratio, mask, ratio_level),
        advantages[:, None] if advantages.dim() == 1 else advantages,
        1 - clip_ratio, 1 + (clip_ratio if clip_ratio_high is None else clip_ratio_high),
        surrogate)
    mismatch: dict[str, Tensor] = {}
    importance: Tensor | float = 1.0
    if sampling_logp is not None:
        sampling_logp = chosen(sampling_logp)
        difference = old_logp - sampling_logp
        mismatch = {'mismatch/kl': token_mean(approximate_kl(sampling_logp, old_logp)),
                    'mismatch/max_ratio': difference.abs().amax().exp()}
        if importance_cap is not None:
            weights = {level: importance_weights(old_logp, sampling_logp, mask, importance_cap,
                                                 level, importance_mode, importance_floor)
                       for level in IMPORTANCE_LEVELS}
            importance = weights[importance_level]
            per_token = per_token * importance
            ratio = importance_weights(old_logp, sampling_logp, mask, math.inf, importance_level)
            mismatch['mismatch/clipped'] = token_mean(
                ((ratio > importance_cap) | (ratio < importance_floor)).to(logp.dtype))
            for name, weight in (('tokens', weights['token']), ('sequences', weights['sequence'])):
                average = token_mean if name == 'tokens' else sequence_mean
                mismatch[f'importance/{name}'] = average(weight)
                mismatch[f'importance/{name}_squared'] = average(weight.square())
    if off_policy_mask_threshold is not None:
        kept = off_policy_mask(logp, old_logp if sampling_logp is None else sampling_logp,
                               advantages, mask, off_policy_mask_threshold).to(logp.dtype)
        per_token = per_token * kept
        mismatch['off_policy_masked'] = sequence_mean(1 - kept)
    if surrogate_mask is not None:
        per_token = per_token * surrogate_mask.to(logp.dtype)
    loss = pg_loss = mean(per_token)
    kl_loss = torch.zeros_like(pg_loss)
    if ref_logp is not None:
        kl = approximate_kl(logp, chosen(ref_logp), kl_estimator, old_logp)
        kl_loss = mean(kl * importance if kl_estimator == 'k3_unbiased' else kl)
        if kl_coef:
            loss = loss + kl_coef * kl_loss
    scalars = {
        'pg_loss': pg_loss,
        'kl_loss': kl_loss,
        'clip_frac': token_mean(is_clipped.to(logp.dtype)),
        'approx_kl': token_mean(-log_ratio),
        **mismatch,
    }
    if entropy is not None:
        scalars['entropy'] = mean(entropy)
        if entropy_coef:
            loss = loss - entropy_coef * scalars['entropy']
    return loss, {name: value.detach() for name, value in scalars.items()}


def _ratio(log_ratio: Tensor, mask: Tensor, level: str) -> Tensor:
    """w of each token, (N, T), from its logarithm (0 where the mask is False)."""
    if level == 'sequence':
        lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)
        log_ratio = (log_ratio.sum(dim=1, keepdim=True) / lengths).expand_as(log_ratio)
    return log_ratio.exp()


def _surrogate(logp: Tensor, ratio: Tensor, advantages: Tensor, low: float, high: float,
               kind: str) -> tuple[Tensor, Tensor]:
    """The surrogate of each token and whether its ratio was clipped, both (N, T)."""
    if kind == 'cispo':
        return -advantages * ratio.clamp(max=high).detach() * logp, ratio > high
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(low, high)
    return torch.maximum(unclipped, clipped), clipped > unclipped


def check_objective(clip_ratio: float = 0.2, clip_ratio_high: float | None = None,
                    ratio_level: str = 'token', surrogate: str = 'clip',
                    kl_estimator: str = 'k3', aggregation: str = 'seq_mean_token_mean',
                    max_tokens: int | None = None, importance_cap: float | None = None,
                    importance_level: str = 'token', importance_mode: str = 'truncate',
                    importance_floor: float = 0.0,
                    off_policy_mask_threshold: float | None = None) -> None:
    """Raise the ValueErrors of :func:`policy_loss` that concern its options."""
    check_kl_estimator(kl_estimator)
    check_aggregation(aggregation, max_tokens)
    check_importance(importance_cap, importance_level, importance_mode, importance_floor)
    for name, value, known in (('ratio_level', ratio_level, RATIO_LEVELS),
                               ('surrogate', surrogate, SURROGATES)):
        if value not in known:
            raise ValueError(f'`{name}` should be one of {known}, but got {value!r}')
    if not 0 <= clip_ratio <= 1 or not (clip_ratio_high is None or clip_ratio_high >= 0):
        raise ValueError(f'`clip_ratio` should be in [0, 1] and `clip_ratio_high` None or at least '
                         f'0, but got {clip_ratio} and {clip_ratio_high}')
    if off_policy_mask_threshold is not None and not off_policy_mask_threshold >= 0:
        raise ValueError(f'`off_policy_mask_threshold` should be None or at least 0 (nats per '
                         f'token), but got {off_policy_mask_threshold}')
