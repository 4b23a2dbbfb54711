# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Whether a response has the requested format (R_format of DPAD)."""

from __future__ import annotations

from torch import Tensor

from mmdpad.prompts import follows_template
from mmdpad.registry import REWARDS
from mmdpad.structures import ReasoningOutput, RolloutBatch


@REWARDS.register_module()
class ThinkingFormatReward:
    """1 if the complete text is think, answer and caption tags in this order, else 0.

    Args:
        caption: False requires think and answer only (Seg-Zero).
        allow_empty: Accept empty reasoning or an empty caption, as the reference does, whose
            pattern matches empty tags.
    """

    def __init__(self, caption: bool = True, allow_empty: bool = False) -> None:
        self.caption = caption
        self.allow_empty = allow_empty

    def __call__(self, rollout: RolloutBatch) -> Tensor:
        """Returns a (B, G) tensor of 0 and 1."""
        return rollout.per_response([
            float(follows_template(text, self.caption) and (
                self.allow_empty or bool(parsed.think and (parsed.caption or not self.caption))))
            for text, parsed in zip(rollout.texts, rollout.parsed, strict=True)])


@REWARDS.register_module()
class SegmentationFormatReward:
    """1 if the answer is JSON with a usable box and two points, else 0."""

    def __call__(self, rollout: RolloutBatch) -> Tensor:
        """Returns a (B, G) tensor of 0 and 1."""
        return rollout.per_response(
            [float(isinstance(parsed, ReasoningOutput)) for parsed in rollout.parsed])
