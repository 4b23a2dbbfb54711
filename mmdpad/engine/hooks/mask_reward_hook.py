# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Adds the IoU of the decoded mask to the rewards. Beyond DPAD."""

from __future__ import annotations

from collections.abc import Sequence

from mmdpad.registry import HOOKS
from mmdpad.rewards import MaskReward

from .reward_hook import RewardHook


@HOOKS.register_module()
class MaskRewardHook(RewardHook):
    """Adds a :class:`MaskReward`: decodes the mask of each response and scores its IoU.

    Args:
        tiers, ignore_regions: See :class:`MaskReward`.
        weight: Weight of the term in the sum of rewards.
        name: Of the term, 'mask_iou' by default; each hook in a config needs a different one.
        tasks: The tasks whose prompts it scores; None for all.
    """

    kind = MaskReward
    term = 'mask_iou'

    def __init__(self, tiers: Sequence[float] | None = None, weight: float = 1.0,
                 ignore_regions: str = 'target', name: str | None = None,
                 tasks: Sequence[str] | None = None) -> None:
        super().__init__(weight, name, tasks, tiers=tiers, ignore_regions=ignore_regions)
