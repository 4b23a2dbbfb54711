# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Terms on how the reasoning is written: its length and its repetition. Beyond DPAD."""

from __future__ import annotations

import torch
from torch import Tensor

from mmdpad.registry import REWARDS
from mmdpad.structures import RolloutBatch

from .text import repetition


@REWARDS.register_module()
class ReasoningLengthReward:
    """1 for reasoning of at most ``soft`` tokens, falling linearly to 0 at ``hard``.

    The shape of DAPO's overlong penalty (arXiv 2503.14476, eq. 13), shifted to [0, 1].

    Args:
        soft, hard: Tokens inside the think tags; 0 < soft < hard.
    """

    def __init__(self, soft: int, hard: int) -> None:
        if not 0 < soft < hard:
            raise ValueError(f'`soft` and `hard` should be 0 < soft < hard, but got {soft} and '
                             f'{hard}')
        self.soft, self.hard = soft, hard

    def __call__(self, rollout: RolloutBatch) -> Tensor:
        """Returns a (B, G) tensor in [0, 1]; 0 without reasoning or if it is empty."""
        tokens = rollout.per_response(rollout.reasoning_tokens)
        reward = ((self.hard - tokens) / (self.hard - self.soft)).clamp(0, 1)
        return torch.where(tokens > 0, reward, torch.zeros_like(reward))  # NaN > 0 is False


@REWARDS.register_module()
class RepetitionReward:
    """1 minus the share of the reasoning's word n-grams that repeat earlier ones.

    Args:
        n: Words in an n-gram, see :func:`mmdpad.rewards.repetition`.
    """

    def __init__(self, n: int = 4) -> None:
        self.n = n

    def __call__(self, rollout: RolloutBatch) -> Tensor:
        """Returns a (B, G) tensor in [0, 1]; 0 without reasoning or if it is empty."""
        return rollout.per_response([1 - repetition(parsed.think, self.n) if parsed.think else 0.0
                                     for parsed in rollout.parsed])
