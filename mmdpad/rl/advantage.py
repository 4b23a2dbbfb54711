# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""From rewards to advantages. N prompts, G responses each; r is a reward, A an advantage."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor


def has_signal(rewards: Tensor) -> Tensor:
    """Which groups carry a learning signal: False if all rewards of a group are equal.

    Args:
        rewards: (N, G) float.

    Returns:
        (N,) bool.
    """
    return (rewards != rewards[:, :1]).any(dim=1)


def group_relative_advantage(rewards: Tensor, eps: float = 1e-6) -> Tensor:
    """A = (r - mean(r)) / (std(r) + eps) within each group (GRPO, arXiv 2402.03300, section 4.1).

    Args:
        rewards: (N, G) float, one row per prompt, one column per response.
        eps: Added to the standard deviation, which is the unbiased one (G - 1), as in verl.

    Returns:
        (N, G) float. A group whose rewards are all equal gets 0, and so does a group of one, which
        has nothing to compare with.

    Raises:
        ValueError: ``rewards`` is not two-dimensional.
    """
    centered = _centered(rewards)
    if rewards.shape[1] < 2:
        return centered
    scaled = centered / (rewards.std(dim=1, keepdim=True) + eps)
    return torch.where(has_signal(rewards)[:, None], scaled, centered)


def _centered(rewards: Tensor) -> Tensor:
    """r - mean(r) within each group; exactly 0 without a signal."""
    if rewards.dim() != 2:
        raise ValueError(f'`rewards` should be (prompts, responses), but got shape '
                         f'{tuple(rewards.shape)}')
    # The mean of equal numbers can differ from them by a rounding error, which eps would not hide.
    centered = rewards - rewards.mean(dim=1, keepdim=True)
    return centered.masked_fill(~has_signal(rewards)[:, None], 0.0)


def _leave_one_out(rewards: Tensor, eps: float) -> Tensor:
    size = rewards.shape[1]
    return _centered(rewards) * (size / max(size - 1, 1))


def _whole_batch(rewards: Tensor, eps: float) -> Tensor:
    """Treat the batch as one group: mean and standard deviation are those of the batch."""
    return group_relative_advantage(rewards.reshape(1, -1), eps).reshape(rewards.shape)


def _group_mean_batch_spread(rewards: Tensor, eps: float) -> Tensor:
    return _whole_batch(_centered(rewards), eps)


_Estimator = Callable[[Tensor, float], Tensor]
_ESTIMATORS: dict[str, _Estimator] = {
    'grpo': group_relative_advantage,
    'dr_grpo': lambda rewards, eps: _centered(rewards),
    'rloo': _leave_one_out,
    'reinforce++': _whole_batch,
    'reinforce++-baseline': _group_mean_batch_spread,
}
ADVANTAGES = tuple(_ESTIMATORS)


def compute_advantages(rewards: Tensor, estimator: str = 'grpo', eps: float = 1e-6,
                       tasks: Sequence[Hashable] | None = None) -> Tensor:
    """Advantages of one batch of rollouts.

    ======================  ==========================================  ==========================
    estimator               A                                           source
    ======================  ==========================================  ==========================
    grpo                    (r - mean_group) / (std_group + eps)        arXiv 2402.03300, sec. 4.1
    dr_grpo                 r - mean_group                              arXiv 2503.20783, sec. 3.2
    rloo                    r - mean of the group's others              arXiv 2402.14740
    reinforce++             (r - mean_batch) / (std_batch + eps)        arXiv 2501.03262
    reinforce++-baseline    r - mean_group, then as 'reinforce++'       arXiv 2501.03262
    ======================  ==========================================  ==========================

    A "batch" is that of one task: tasks have different rewards, and a mean over all of them would
    call every response of the task with the smaller rewards a bad one.

    Args:
        rewards: (N, G) float: the complete batch, across all processes.
        estimator: One of the names above.
        eps: Added to a standard deviation (unbiased).
        tasks: The tasks of N prompts; None if all are of one.

    Returns:
        (N, G) float; 0 if there is nothing to compare with.

    Raises:
        ValueError: Unknown estimator, or ``rewards`` is not two-dimensional.
    """
    check_estimator(estimator)
    estimate = _ESTIMATORS[estimator]
    if tasks is None or len(set(tasks)) < 2:
        return estimate(rewards, eps)
    advantages = torch.empty_like(rewards)
    for task in dict.fromkeys(tasks):
        rows = torch.tensor([other == task for other in tasks], device=rewards.device)
        advantages[rows] = estimate(rewards[rows], eps)
    return advantages


def check_estimator(estimator: str) -> None:
    """Raise the ValueError of :func:`compute_advantages` for an unknown name."""
    if estimator not in _ESTIMATORS:
        raise ValueError(f'`advantage` should be one of {ADVANTAGES}, but got {estimator!r}')
