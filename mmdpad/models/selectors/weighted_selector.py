# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Chooses by a weighted sum of what other selectors say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from mmdpad.registry import MODELS
from mmdpad.structures import Selection
from mmdpad.tasks import Task

from .building import build_selector, pairs_of
from .consensus_selector import ConsensusSelector
from .selector import Selector


@MODELS.register_module()
class WeightedSelector(Selector):
    """sum_k w_k v_k, with the values v_k of several selectors as they are.

    Their scales differ (S1 - S2 varies by hundredths, an IoU by tenths), so weights are not shares;
    fit them on a validation split. An answer without a value by one of them has none, unless that
    one's weight is 0. A selector with the weight 0 is measured, for a comparison, and
    does not count.

    Args:
        selectors: Name -> weight, of selectors by their short names; or name -> (weight, config),
            where the name is free.

    Raises:
        ValueError: There are fewer than two selectors, a weight is not finite, all are 0, or one
            is a weighted sum itself or votes.
    """

    name = 'weighted'

    def __init__(self, selectors: Mapping[str, Any]) -> None:
        given = pairs_of(selectors, 'test_cfg.select')
        if len(given) < 2:
            raise ValueError(f'`selectors` of WeightedSelector should be a dict of at least two, '
                             f'name -> weight or name -> (weight, config), but got {selectors!r}; '
                             "for example dict(discrimination=5.0, consensus=1.0)")
        self.weights = {name: weight for name, (weight, _) in given.items()}
        if not all(isinstance(weight, Real) and not isinstance(weight, bool)
                   and math.isfinite(weight) for weight in self.weights.values()) or not any(
                       self.weights.values()):
            raise ValueError(f'`selectors` of WeightedSelector should have finite weights that are '
                             f'not all 0, but got {self.weights}; correct them')
        self.selectors: dict[str, Selector] = {}
        for name, (_, config) in given.items():
            self.selectors[name] = selector = build_selector(config, f'selectors.{name}')
            if isinstance(selector, WeightedSelector) or (
                    isinstance(selector, ConsensusSelector) and selector.vote):
                raise ValueError(f'`selectors.{name}` should be a selector that is no sum itself '
                                 f'and does not vote, but got {config!r}; leave it out')
            selector.name = name
        self.needs_policy = any(one.needs_policy for one in self.selectors.values())
        self.needs_truth = any(one.needs_truth for one in self.selectors.values())

    @property
    def parts(self) -> list[Selector]:
        """See :class:`Selector`."""
        return [*self.selectors.values()]

    def check_tasks(self, tasks: Mapping[str, Task]) -> None:
        """See :class:`Selector`."""
        for selector in self.selectors.values():
            selector.check_tasks(tasks)

    def prepare(self) -> None:
        """See :class:`Selector`."""
        for selector in self.selectors.values():
            selector.prepare()

    def values(self, selection: Selection) -> np.ndarray:
        """See :class:`Selector`."""
        return np.sum([weight * self.selectors[name].values(selection)
                       for name, weight in self.weights.items() if weight], axis=0)
