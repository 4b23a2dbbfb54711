# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Adds R_dpad to the rewards; without this hook the run is the geometric baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdpad.registry import HOOKS
from mmdpad.rewards import DiscriminativeReward

from .reward_hook import RewardHook


@HOOKS.register_module()
class DiscriminativeRewardHook(RewardHook):
    """Adds a :class:`DiscriminativeReward`: captions scored by a frozen discriminator, or several.

    Args:
        discriminator: Config of the discriminator, or a list of them, see
            :class:`DiscriminativeReward`. It is built before training starts, on the device of the
            policy, and not saved.
        weight: Weight of the term in the sum of rewards.
        name: Of the term, 'discriminative' by default; each hook in a config needs a different one.
            The signals of a second term are prefixed with its name
            (:func:`mmdpad.rewards.write_term`).
        tasks: The tasks whose prompts it scores; None for all.
        **options: See :class:`DiscriminativeOptions`.

    Raises:
        ValueError: An empty list of discriminators, or see :class:`DiscriminativeOptions`.
    """

    kind = DiscriminativeReward
    term = 'discriminative'

    def __init__(self, discriminator: dict | Sequence[dict], weight: float = 1.0,
                 name: str | None = None, tasks: Sequence[str] | None = None,
                 **options: Any) -> None:
        super().__init__(weight, name, tasks, discriminator=discriminator, **options)
