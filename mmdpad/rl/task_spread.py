# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The spread of each task's rewards over a training."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from torch import Tensor

DECAY = 0.99
MIN_SPREAD = 1e-3


class TaskSpread:
    """Exponential moving averages of the mean and the mean square of each task's rewards
    (EMA-GRPO of OneThinker, arXiv 2512.03043).

    Each batch, m1 <- 0.99 m1 + 0.01 mean(r) and m2 <- 0.99 m2 + 0.01 mean(r^2); the first one of a
    task sets them. The spread is sqrt(m2 - m1^2), at least 0.001.
    """

    def __init__(self) -> None:
        self._moments: dict[Hashable, tuple[float, float]] = {}

    def update(self, task: Hashable, rewards: Tensor) -> float:
        """Include a batch, and return the spread.

        Args:
            task: Its name.
            rewards: Of its responses, of any shape.
        """
        values = rewards.double()
        new = (float(values.mean()), float(values.square().mean()))
        old = self._moments.get(task, new)
        first, second = self._moments[task] = (DECAY * old[0] + (1 - DECAY) * new[0],
                                               DECAY * old[1] + (1 - DECAY) * new[1])
        return max(max(second - first * first, 0.0)**0.5, MIN_SPREAD)

    def state_dict(self) -> dict[Hashable, list[float]]:
        """Plain data, for a resumed run."""
        return {task: list(moments) for task, moments in self._moments.items()}

    def load_state_dict(self, state: Mapping[Hashable, list[float]]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._moments = {task: (first, second) for task, (first, second) in state.items()}
