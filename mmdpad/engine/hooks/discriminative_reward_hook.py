# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Adds R_dpad to every rollout; without this hook the run is the geometric baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.runner import Runner
from torch import Tensor

from mmdpad.models.discriminators import DiscriminativeOptions, DiscriminativeReward
from mmdpad.models.discriminators.discriminative_reward import as_configs
from mmdpad.registry import HOOKS
from mmdpad.structures import RolloutBatch

from .reward_hook import RewardHook


@HOOKS.register_module()
class DiscriminativeRewardHook(RewardHook):
    """Scores captions by a frozen discriminator, or several, at the loop's ``after_rollout``.

    Writes ``rollout.rewards[name]``, (B, G) in the form's range, and the signals of
    :class:`DiscriminativeReward`.

    Args:
        discriminator: Config of the discriminator, or a list of them, see
            :class:`DiscriminativeReward`. It is built before training starts, on the device of the
            policy, and not saved.
        weight: Weight of the term in the sum of rewards.
        name: Of the term; a further hook of a config needs another one. Its signals then have
            that name in front (:func:`mmdpad.rewards.write_term`).
        **options: See :class:`DiscriminativeOptions`.

    Raises:
        ValueError: An empty list of discriminators, or see :class:`DiscriminativeOptions`.
    """

    term = 'discriminative'

    def __init__(self, discriminator: dict | Sequence[dict], weight: float = 1.0,
                 name: str = term, **options) -> None:
        DiscriminativeOptions(**options)  # a wrong one is found before a model is loaded
        as_configs(discriminator)
        self._config = dict(options, discriminator=discriminator)
        self.term, self.weight = name, weight
        self.reward: Any = None

    def prepare(self, runner: Runner) -> None:
        """Build the models."""
        device = next(runner.model.parameters()).device
        self.reward = DiscriminativeReward(**self._config, device=device)
        runner.logger.info(f'Discriminative reward {self.term!r}: weight {self.weight}, '
                           f'{self.reward.options}, {self._config["discriminator"]}')

    def score(self, runner: Runner, rollout: RolloutBatch) -> Tensor:
        """The term; its similarities are written into the rollout."""
        return self.reward(rollout)
