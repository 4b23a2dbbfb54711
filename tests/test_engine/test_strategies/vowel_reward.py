# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A reward by which random policies learn, imported by name."""
from mmdpad.registry import REWARDS


@REWARDS.register_module()
class VowelReward:
    """The share of vowels in a response."""

    def __call__(self, rollout):
        return rollout.per_response([sum(letter in 'aeiou' for letter in text) / (len(text) or 1)
                                     for text in rollout.texts])
