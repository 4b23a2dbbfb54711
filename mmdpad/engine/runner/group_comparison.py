# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Compares the responses of a group, by rewards that all processes know."""

from __future__ import annotations

import torch
from mmengine.dist import all_gather, all_gather_object, get_rank
from torch import Tensor

from mmdpad.rewards import RewardComposition
from mmdpad.rl import (
    PolicyLoss,
    TaskSpread,
    check_estimator,
    compute_advantages,
    decoupled_rewards,
)
from mmdpad.structures import RolloutBatch


class GroupComparison:
    """From rewards to advantages.

    Args:
        estimator: Of :func:`mmdpad.rl.compute_advantages`; its batches are of one task.
        composition: The reward terms and their weights.

    Attributes:
        spread: What an estimator keeps of earlier batches, equal on all processes.

    Raises:
        ValueError: The estimator is unknown.
    """

    def __init__(self, estimator: str, composition: RewardComposition) -> None:
        check_estimator(estimator)
        self.estimator = estimator
        self.composition = composition
        self.spread = TaskSpread()

    def compared(self, rollout: RolloutBatch) -> Tensor:
        """The (B, G) numbers that the estimator compares: the total rewards, or with 'gdpo' the sum
        of the normalized terms. A group has a signal if they differ."""
        assert rollout.total_rewards is not None
        if self.estimator != 'gdpo':
            return rollout.total_rewards
        values = self.composition.scored(rollout)
        return decoupled_rewards(list(values.values()),
                                 [self.composition.weights[name] for name in values])

    def advantages(self, rollout: RolloutBatch, tasks: int) -> Tensor:
        """The (B, G) advantages of this process's groups within the batch of all processes.

        Args:
            rollout: Of this process.
            tasks: How many tasks the model has.
        """
        everyone = torch.cat(all_gather(self.compared(rollout)))
        names = None
        if tasks > 1:
            names = [name for own in all_gather_object(rollout.tasks) for name in own]
        first, last = (rank * rollout.num_prompts for rank in (get_rank(), get_rank() + 1))
        return compute_advantages(everyone, self.estimator, tasks=names,
                                  spread=self.spread)[first:last]


def check_comparison(estimator: str, loss: PolicyLoss) -> None:
    """Check that a loss works with an estimator of advantages.

    Raises:
        ValueError: The estimator is unknown, or leaves out what the loss takes off the rewards.
    """
    check_estimator(estimator)
    if estimator == 'gdpo' and loss.penalizes_rewards:
        raise ValueError(
            "`advantage` should not be 'gdpo' with a loss that takes something off the sum of "
            "the rewards (`kl_in='reward'`), since it normalizes each term, but got 'gdpo'; set "
            "`model.loss.kl_in='loss'`, or use another estimator")
