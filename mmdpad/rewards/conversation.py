# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Terms on how a policy looks closer before it answers. Beyond DPAD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmdpad.geometry.boxes import contained_share, outer_edges
from mmdpad.registry import REWARDS
from mmdpad.structures import ConversationRecord, RolloutBatch
from mmdpad.structures.reasoning_output import Box

from .geometric import to_original_frame


class _OfConversations:
    """A term of a model with conversations."""

    needs_conversation = True

    def prepare(self, model: Any, dataset: Any) -> None:
        """Check that the model holds conversations.

        Raises:
            ValueError: It does not.
        """
        if model is not None and getattr(model, 'conversations', None) is None:
            raise ValueError(f'`{type(self).__name__}` needs `model.conversation`, which is None; '
                             f'set it, or leave the term out')

    @staticmethod
    def records(rollout: RolloutBatch) -> list[ConversationRecord]:
        """The B * G conversations of a rollout.

        Raises:
            ValueError: It has none.
        """
        if rollout.conversations is None:
            raise ValueError('the responses should be conversations of a model with '
                             '`conversation`, but are not; leave the term out')
        return rollout.conversations


@REWARDS.register_module()
class TurnCostReward(_OfConversations):
    """Minus the number of turns after the first, whatever they were for; its ``weight`` is what a
    further turn costs."""

    def __call__(self, rollout: RolloutBatch) -> Tensor:
        """Returns a (B, G) tensor of 0, -1, ... ."""
        return rollout.per_response([1.0 - len(record.texts) for record in self.records(rollout)])


@REWARDS.register_module()
class CropContainsTargetReward(_OfConversations):
    """The share of the target's box that lies in a crop that the policy was shown; the mean over
    several targets. The answer does not matter, and neither does the size of the crop: all of the
    image earns 1, so a large weight teaches calls that show nothing new.

    Args:
        crop: 'last' for the crop that was shown last, 'any' for the one that contains most.
        threshold: Share from which on the term is 1, and 0 below, in (0, 1]; None for the share.

    Raises:
        ValueError: ``crop`` is neither, or the threshold is out of range.
    """

    def __init__(self, crop: str = 'last', threshold: float | None = None) -> None:
        if crop not in ('last', 'any'):
            raise ValueError(f"`crop` should be 'last' or 'any', but got {crop!r}; set one of them")
        if threshold is not None and not 0 < threshold <= 1:
            raise ValueError(f'`threshold` should be in (0, 1] or None, but got {threshold}; '
                             f'correct it')
        self.crop, self.threshold = crop, threshold

    def __call__(self, rollout: RolloutBatch) -> Tensor:
        """Returns a (B, G) tensor in [0, 1]; 0 if no crop was shown, or there is no target."""
        places = []
        for convert, targets in zip(to_original_frame(rollout), rollout.targets, strict=True):
            last = (0.0, 0.0) if targets.get('outer_edges') else (1.0, 1.0)
            places.append([outer_edges(convert(box), last) for box in targets.bboxes.tolist()])
        return rollout.per_response([
            self._score(record, places[row // rollout.group_size])
            for row, record in enumerate(self.records(rollout))])

    def _score(self, record: ConversationRecord, targets: Sequence[Box]) -> float:
        """The score of one conversation; the targets' boxes are in pixels of the original image."""
        crops = record.crops[-1:] if self.crop == 'last' else record.crops
        if not crops or not targets:
            return 0.0
        share = max(sum(contained_share(target, crop.box) for target in targets) / len(targets)
                    for crop in crops)
        return share if self.threshold is None else float(share >= self.threshold)
