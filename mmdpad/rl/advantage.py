# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""From rewards to advantages. N prompts, G responses each; r is a reward, A an advantage."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from .task_spread import TaskSpread


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


def decoupled_rewards(terms: Sequence[Tensor], weights: Sequence[float],
                      eps: float = 1e-4) -> Tensor:
    """sum_k w_k (r_k - mean(r_k)) / (std(r_k) + eps), each term r_k normalized within its group
    (GDPO, arXiv 2601.05242, section 3).

    A sum of terms that is normalized only as a whole treats responses alike that earned it by
    different terms, and a term with a small spread counts little beside one with a large spread.

    Args:
        terms: K tensors (N, G) float, unweighted; NaN where a term does not score a prompt, which
            counts as 0.
        weights: K weights.
        eps: Added to a standard deviation (unbiased); 1e-4 as in NVlabs/GDPO and TRL, so that a
            term whose values differ by rounding only counts next to nothing.

    Returns:
        (N, G) float64: what :func:`compute_advantages` compares with 'gdpo'. It is constant for a
        group without a signal in any term, and where the terms cancel out.
    """
    total = torch.zeros(terms[0].shape, dtype=torch.float64, device=terms[0].device)
    for term, weight in zip(terms, weights, strict=True):
        total += weight * group_relative_advantage(term.double().nan_to_num(), eps)
    # Terms that cancel out leave rounding errors of float32, which would be taken for a signal.
    return total.masked_fill(total.abs() < 1e-6, 0.0)


def _leave_one_out(rewards: Tensor, eps: float) -> Tensor:
    size = rewards.shape[1]
    return _centered(rewards) * (size / max(size - 1, 1))


def _whole_batch(rewards: Tensor, eps: float) -> Tensor:
    """Treat the batch as one group: mean and standard deviation are those of the batch."""
    return group_relative_advantage(rewards.reshape(1, -1), eps).reshape(rewards.shape)


def _group_mean_batch_spread(rewards: Tensor, eps: float) -> Tensor:
    return _whole_batch(_centered(rewards), eps)


_MAX_BY_SPREAD = 5.0


def _by_spread(rewards: Tensor, eps: float, spread: float) -> Tensor:
    """Scale by the spread of a task, but a group where that gives too much by its own."""
    centered = _centered(rewards)
    scaled = centered / (spread + eps)
    own = centered / (rewards.std(dim=1, correction=0, keepdim=True) + eps)
    return torch.where((scaled.abs() > _MAX_BY_SPREAD).any(dim=1, keepdim=True), own, scaled)


_Estimator = Callable[[Tensor, float], Tensor]
_ESTIMATORS: dict[str, _Estimator] = {
    'grpo': group_relative_advantage,
    'dr_grpo': lambda rewards, eps: _centered(rewards),
    'rloo': _leave_one_out,
    'reinforce++': _whole_batch,
    'reinforce++-baseline': _group_mean_batch_spread,
    'gdpo': _group_mean_batch_spread,
}
ADVANTAGES = (*_ESTIMATORS, 'ema_grpo')


def compute_advantages(rewards: Tensor, estimator: str = 'grpo', eps: float = 1e-6,
                       tasks: Sequence[Hashable] | None = None,
                       spread: TaskSpread | None = None) -> Tensor:
    """Advantages of one batch of rollouts.

    ======================  ==========================================  ==========================
    estimator               A                                           source
    ======================  ==========================================  ==========================
    grpo                    (r - mean_group) / (std_group + eps)        arXiv 2402.03300, sec. 4.1
    dr_grpo                 r - mean_group                              arXiv 2503.20783, sec. 3.2
    rloo                    r - mean of the group's others              arXiv 2402.14740
    reinforce++             (r - mean_batch) / (std_batch + eps)        arXiv 2501.03262
    reinforce++-baseline    r - mean_group, then as 'reinforce++'       arXiv 2501.03262
    gdpo                    as above, of :func:`decoupled_rewards`      arXiv 2601.05242, sec. 3
    ema_grpo                (r - mean_group) / (spread + eps), or       arXiv 2512.03043, and the
                            with the group's biased std where that      code of OneThinker
                            exceeds 5 for a response
    ======================  ==========================================  ==========================

    A "batch" is that of one task: tasks have different rewards, and a mean over all of them would
    call every response of the task with the smaller rewards a bad one.

    Args:
        rewards: (N, G) float: the complete batch, across all processes. They are the weighted sums
            of the terms, but with 'gdpo' their :func:`decoupled_rewards`.
        estimator: One of the names above.
        eps: Added to a standard deviation (unbiased).
        tasks: The tasks of N prompts; None if all are of one.
        spread: What 'ema_grpo' knows of the rewards of earlier batches, which includes this batch
            afterwards; None if there were none.

    Returns:
        (N, G) float; 0 if there is nothing to compare with.

    Raises:
        ValueError: Unknown estimator, or ``rewards`` is not two-dimensional.
    """
    check_estimator(estimator)
    spread = spread or TaskSpread()

    def estimate(task: Hashable, own: Tensor) -> Tensor:
        if estimator == 'ema_grpo':
            return _by_spread(own, eps, spread.update(task, own))
        return _ESTIMATORS[estimator](own, eps)

    if tasks is None:
        return estimate('', rewards)
    advantages = torch.empty_like(rewards)
    for task in dict.fromkeys(tasks):
        rows = torch.tensor([other == task for other in tasks], device=rewards.device)
        advantages[rows] = estimate(task, rewards[rows])
    return advantages


def check_estimator(estimator: str) -> None:
    """Raise the ValueError of :func:`compute_advantages` for an unknown name."""
    if estimator not in ADVANTAGES:
        raise ValueError(f'`advantage` should be one of {ADVANTAGES}, but got {estimator!r}')
