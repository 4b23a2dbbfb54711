# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Several metrics for each of several data sets, and their means over the data sets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.evaluation import MultiDatasetsEvaluator
from mmengine.logging import print_log

from mmdpad.registry import EVALUATOR

MEAN = 'mean'
"""Prefix of the means."""


@EVALUATOR.register_module()
class MeanDatasetsEvaluator(MultiDatasetsEvaluator):
    """mmdet's ``MultiDatasetsEvaluator`` with any number of metrics for each data set, and
    ``mean/<name>``, the mean over the data sets, of each number ``<data set>/<name>``.

    Data sets count alike, whatever their size, as in the tables of ODinW. There is a mean of each
    number that all data sets have, apart from counts and the ends of intervals. If a data set has
    no value (COCO's -1 for an AP without targets), there is no mean; the log says of which numbers
    and why. It also has a table with the first number of each metric.

    Use it in the loops of mmdpad, which give each metric the samples of its data set only.

    Args:
        metrics: A list of metrics for each data set, equally long.
        dataset_prefixes: Name of each data set of a ``ConcatDataset``.

    Attributes:
        dataset_prefixes: Name of the data set of each metric.

    Raises:
        ValueError: The lists do not have the same length, or a name is 'mean' or repeats.
    """

    def __init__(self, metrics: Sequence[Sequence[Any]], dataset_prefixes: Sequence[str]) -> None:
        names, lengths = list(dataset_prefixes), {len(some) for some in metrics}
        if len(names) != len(metrics) or len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                f'`metrics` should have a list with equally many metrics for each of the '
                f'{len(names)} `dataset_prefixes`, but has lists of '
                f'{[len(some) for some in metrics]}; correct it')
        if len({*names, MEAN}) != len(names) + 1:
            raise ValueError(f"`dataset_prefixes` should be different names, none of them {MEAN!r},"
                             f' but got {names}; rename some')
        self.names = names
        self._each = lengths.pop()
        super().__init__([metric for some in metrics for metric in some],
                         [name for name in names for _ in range(self._each)])

    def evaluate(self, size: int) -> dict[str, float]:
        """Compute all metrics over ``size`` samples of all data sets, and the means."""
        everything, values = (self.metrics, self.dataset_prefixes), {}
        own = self.metrics[:len(self.dataset_prefixes)]
        try:
            for number in range(self._each):  # mmdet's takes one metric for each data set
                self.metrics, self.dataset_prefixes = own[number::self._each], self.names
                self._setups = False
                values.update(super().evaluate(size))
        finally:
            self.metrics, self.dataset_prefixes = everything
        means, unknown = mean_values(values, self.names)
        print_log('\n'.join([_format_table(values, means, self.names), *(
            f'no {MEAN}/{name}: {", ".join(places)} without a value'
            for name, places in unknown.items())]), logger='current', level=logging.INFO)
        return values | {f'{MEAN}/{name}': value for name, value in means.items()}


def mean_values(values: dict[str, float],
                names: Sequence[str]) -> tuple[dict[str, float], dict[str, list[str]]]:
    """The means over data sets.

    Args:
        values: Numbers by ``<data set>/<name>``.
        names: Of the data sets.

    Returns:
        - name -> mean, for each name that all data sets have.
        - name -> data sets without a value, for each name without a mean that some of them have.
    """
    def is_measure(name: str, value: Any) -> bool:
        return isinstance(value, float) and not name.endswith(('_low', '_high'))

    parts: dict[str, dict[str, float]] = {part: {} for part in names}
    for key, value in values.items():
        part = max((part for part in names if key.startswith(f'{part}/')), key=len)
        name = key.removeprefix(f'{part}/')
        if is_measure(name, value):
            parts[part][name] = value
    means, unknown = {}, {}
    for name in dict.fromkeys(name for found in parts.values() for name in found):
        found = [parts[part].get(name, -1.0) for part in names]
        without = [part for part, value in zip(names, found, strict=True) if not value >= 0]
        if without:
            unknown[name] = without
        else:
            means[name] = float(np.mean(found))
    return means, unknown


def _format_table(values: dict[str, float], means: dict[str, float],
                  names: Sequence[str]) -> str:
    """The first mean of each metric, and what it is a mean of."""
    shown = list({name.rpartition('/')[0]: name for name in reversed(means)}.values())[::-1]
    width = max(map(len, (*names, MEAN))) + 2
    rows = [*((part, [values[f'{part}/{name}'] for name in shown]) for part in names),
            (MEAN, [means[name] for name in shown])]
    return '\n'.join([f'\n{"data set":{width}}' + ''.join(f'{name:>20}' for name in shown), *(
        f'{part:{width}}' + ''.join(f'{value:20.3f}' for value in numbers)
        for part, numbers in rows)])
