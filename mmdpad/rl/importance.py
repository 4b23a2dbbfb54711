# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Correct for responses that another policy sampled: an engine with its own kernels, or older
weights."""

from __future__ import annotations

import torch
from torch import Tensor

IMPORTANCE_LEVELS = ('token', 'sequence')
IMPORTANCE_MODES = ('truncate', 'mask')
DEFAULT_CAP = 2.0
"""The cap of GRPOLoss where rollouts are older than the policy that is updated."""


def importance_weights(logp: Tensor, sampling_logp: Tensor, mask: Tensor, cap: float,
                       level: str = 'token', mode: str = 'truncate',
                       floor: float = 0.0) -> Tensor:
    """The weight of each token, from the ratio r of the trained model to the policy that sampled.

    ========  ===================================  ================================================
    level     r                                    source
    ========  ===================================  ================================================
    token     exp(logp - sampling_logp)            truncated importance sampling, Yao et al. 2025,
                                                   https://fengyao.notion.site/off-policy-rl
    sequence  the product of a response's ratios,  Liu et al. 2025, https://richardli.xyz/rl-collapse
              the same for each of its tokens
    ========  ===================================  ================================================

    ========  =================================
    mode      weight
    ========  =================================
    truncate  min(r, cap)
    mask      r where floor <= r <= cap, else 0
    ========  =================================

    Up to the tokens whose weight is bounded, a gradient weighted at the level of sequences has the
    same expectation as with responses that the model itself sampled. At the level of tokens, the
    beginning of a response still comes from the other policy; in return the weights vary less.

    Args:
        logp: (N, T) float, log-probabilities under the trained model, before its update.
        sampling_logp: (N, T) float, those under the policy that sampled.
        mask: (N, T) bool or 0/1, True for tokens that count.
        cap: The largest weight, at least 1.
        level, mode: See above.
        floor: The smallest ratio that is not masked, in [0, 1].

    Returns:
        (N, T) float in [0, cap], without gradients; of any value where the mask is False.
    """
    difference = torch.where(mask.bool(), logp - sampling_logp, torch.zeros_like(logp)).detach()
    if level == 'sequence':
        difference = difference.sum(dim=1, keepdim=True).expand_as(difference)
    ratio = difference.exp()
    if mode == 'truncate':
        return ratio.clamp(max=cap)
    return ratio.masked_fill((ratio > cap) | (ratio < floor), 0.0)


def off_policy_mask(logp: Tensor, sampling_logp: Tensor, advantages: Tensor, mask: Tensor,
                    threshold: float) -> Tensor:
    """Which tokens the off-policy sequence masking of DeepSeek-V3.2 keeps (arXiv 2512.02556,
    section 3.1): all but those of responses with a negative advantage whose mean over tokens of
    sampling_logp - logp exceeds the threshold. Such a response is a bad one that the policy would
    hardly write any more, so there is little to unlearn, but its gradients are large and wrong.

    Args:
        logp: (N, T) float, log-probabilities under the policy being updated.
        sampling_logp: (N, T) float, those under the policy that sampled.
        advantages: (N,) or (N, T) float.
        mask: (N, T) bool or 0/1, True for tokens that count.
        threshold: In nats per token, at least 0.

    Returns:
        (N, T) bool; of any value where the mask is False.
    """
    difference = torch.where(mask.bool(), sampling_logp - logp, torch.zeros_like(logp)).detach()
    divergence = difference.sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    if advantages.dim() == 1:
        advantages = advantages[:, None]
    return (advantages >= 0) | (divergence <= threshold)[:, None].expand_as(difference)


def effective_sample_sizes(logs: dict[str, float]) -> dict[str, float]:
    """Replace the mean weights and mean squared weights in a log by ``ess/tokens`` and
    ``ess/sequences``: the effective sample size (sum w)^2 / (n sum w^2), a share in [0, 1], of all
    tokens and of all responses under weights of each level; 0 if all of them are masked.

    The means may be those over micro-batches and processes, so the shares are of the whole batch.
    """
    logs = dict(logs)
    for kind in ('tokens', 'sequences'):
        first, second = (logs.pop(f'importance/{kind}{power}', None) for power in ('', '_squared'))
        if first is not None and second is not None:
            logs[f'ess/{kind}'] = first**2 / second if second else 0.0
    return logs


def check_importance(cap: float | None, level: str = 'token', mode: str = 'truncate',
                     floor: float = 0.0) -> None:
    """Raise a ValueError if an option of :func:`importance_weights` is unknown or out of range, or
    has no effect. Without a cap (None) there is no correction."""
    if cap is not None and not cap >= 1:
        raise ValueError(f'`importance_cap` should be None or at least 1 (the weight of a token '
                         f'without mismatch), but got {cap}')
    for name, value, known in (('importance_level', level, IMPORTANCE_LEVELS),
                               ('importance_mode', mode, IMPORTANCE_MODES)):
        if value not in known:
            raise ValueError(f'`{name}` should be one of {known}, but got {value!r}')
    if not 0 <= floor <= 1:
        raise ValueError(f'`importance_floor` should be in [0, 1] (1 is the weight of a token '
                         f'without mismatch), but got {floor}')
    if floor and mode != 'mask':
        raise ValueError(f"`importance_floor` should be 0 unless `importance_mode` is 'mask', "
                         f'since no weight is raised, but got {floor}; set the mode, or leave it '
                         f'out')
    if cap is None and (level, mode) != ('token', 'truncate'):
        raise ValueError(f'`importance_cap` should be set with `importance_level` or '
                         f'`importance_mode`, which have no effect without it, but got {level!r} '
                         f'and {mode!r} without a cap; set it (such as {DEFAULT_CAP}), or leave '
                         f'them out')
