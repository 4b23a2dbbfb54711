# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A continuous term on the scale of its own recent values."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from mmengine.dist import all_gather_object
from torch import Tensor

from mmdpad.registry import REWARDS
from mmdpad.structures import RolloutBatch

from .composition import build_term, prepare_term


@REWARDS.register_module()
class QuantileReward:
    """Replaces a term's value with its rank among the term's recent values.

    Puts terms whose raw values lie close together (IoU near 0.9, margins near 0.02) on a common
    scale; Dr. Seg reports that a raw continuous sum trains worse than binary terms. The lowest
    value maps to 0, so a response that earns nothing gets nothing.

    Args:
        term: Config of the term, for example of a :class:`DiscriminativeReward`.
        window: How many values to remember, over all processes together.
        lowest: The term's value for a response that earned nothing.
    """

    all_processes = True  # they share the window

    def __init__(self, term: dict, window: int = 1024, lowest: float = 0.0) -> None:
        if window < 2:
            raise ValueError(f'`window` should be at least 2, but got {window}')
        self.term = build_term(term)
        self.lowest = lowest
        self.values: deque[float] = deque(maxlen=window)

    def prepare(self, model: Any, dataset: Any) -> None:
        """Prepare the term."""
        prepare_term(self.term, model, dataset)

    def __call__(self, rollout: RolloutBatch) -> Tensor:
        """Returns a (B, G) tensor in [0, 1]: the share of remembered values below the response's,
        plus half of those equal to it. The rollout's own values are added to the window first."""
        raw = self.term(rollout) if rollout.num_prompts else rollout.per_response([])
        own = raw.flatten().tolist()
        for values in all_gather_object(own):
            self.values.extend(values)
        ranks = quantile_ranks(own, self.values)
        return rollout.per_response([0.0 if value <= self.lowest else rank
                                     for value, rank in zip(own, ranks, strict=True)])

    def state_dict(self) -> dict:
        own = dict(values=list(self.values))
        return own | (dict(term=self.term.state_dict()) if hasattr(self.term, 'state_dict') else {})

    def load_state_dict(self, state: dict) -> None:
        self.values.clear()
        self.values.extend(state['values'])
        if 'term' in state and hasattr(self.term, 'load_state_dict'):
            self.term.load_state_dict(state['term'])


def quantile_ranks(values: Sequence[float], among: Iterable[float]) -> list[float]:
    """The mid-rank of each value among others, in [0, 1]: (below + half of the equal) / all.

    >>> quantile_ranks([1.0, 2.0], [1.0, 2.0, 2.0, 3.0])
    [0.125, 0.5]
    """
    ordered = np.sort(np.asarray(list(among), dtype=np.float64))
    below, up_to = (np.searchsorted(ordered, values, side) for side in ('left', 'right'))
    return ((below + up_to) / (2 * len(ordered))).tolist()
