# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Adds R_dpad to every rollout; without this hook the run is the geometric baseline."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdpad.models.discriminators import DiscriminativeOptions, DiscriminativeReward
from mmdpad.registry import HOOKS
from mmdpad.structures import RolloutBatch


@HOOKS.register_module()
class DiscriminativeRewardHook(Hook):
    """Scores captions by a frozen discriminator at the loop's ``after_rollout``.

    Writes ``rollout.rewards['discriminative']`` and the signals of :class:`DiscriminativeReward`.

    Args:
        discriminator: Config of the discriminator. It is built before training starts, on the
            device of the policy, and not saved.
        weight: Weight of the term in the sum of rewards.
        **options: See :class:`DiscriminativeOptions`.
    """

    term = 'discriminative'

    def __init__(self, discriminator: dict, weight: float = 1.0, **options) -> None:
        DiscriminativeOptions(**options)  # a wrong one is found before a model is loaded
        self._config = dict(options, discriminator=discriminator)
        self._weight = weight
        self.reward: Any = None

    def before_train(self, runner: Runner) -> None:
        """Build the model and announce the term."""
        device = next(runner.model.parameters()).device
        self.reward = DiscriminativeReward(**self._config, device=device)
        runner.train_loop.composition.expect(self.term, self._weight)
        runner.logger.info(f'Discriminative reward: weight {self._weight}, {self.reward.options}, '
                           f'{self._config["discriminator"]}')

    def after_rollout(self, runner: Runner, rollout: RolloutBatch) -> None:
        """Write the term and its similarities into the rollout."""
        rollout.rewards[self.term] = self.reward(rollout)
