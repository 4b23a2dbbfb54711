# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The metrics of detections, from rows about questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .bootstrap import bootstrap_ratios, percentile_interval
from .summary import Row

# Name of a metric -> what an image adds to its numerator and denominator.
_MEASURES: dict[str, Callable[[Mapping[str, float]], tuple[float, float]]] = dict(
    f1=lambda row: (200 * row['right'], 2 * row['right'] + row['wrong'] + row['missed']),
    precision=lambda row: (100 * row['right'], row['right'] + row['wrong']),
    recall=lambda row: (100 * row['right'], row['right'] + row['missed']),
    mean_iou=lambda row: (100 * row['iou'], row['right']),
    count_error=lambda row: (row['count_error'], row['questions']),
    no_target_accuracy=lambda row: (100 * row['rejected'], row['without_target']),
    target_accuracy=lambda row: (100 * row['answered'], row['questions'] - row['without_target']),
    invented_rate=lambda row: (row['invented'], row['objects']),
    duplicate_rate=lambda row: (row['duplicates'], row['objects']),
    parse_failure_rate=lambda row: (row['failed'], row['questions']),
    truncated_rate=lambda row: (row['truncated'], row['questions']))


def summarize_detections(rows: Sequence[Row]
                         ) -> tuple[dict[str, float], dict[str, list[float]], dict[str, Any]]:
    """The metrics of :class:`DetectionMetric` from its rows, their intervals by name, and the
    ``precision``, ``recall``, ``f1`` (percent; None without a denominator), ``targets`` and
    ``objects`` of each class by name.

    Raises:
        ValueError: No rows.
    """
    if not rows:
        raise ValueError('`rows` should have at least one question to average over, but got none')
    images: dict[str, Counter[str]] = {}
    for number, row in enumerate(rows):
        image = images.setdefault(str(number if row['id'] is None else row['id']), Counter())
        image.update({name: value for name, value in row.items()
                      if isinstance(value, int | float) and name not in ('id', 'index')})
    columns = np.array([[measure(image) for image in images.values()]
                        for measure in _MEASURES.values()], float)
    above, below = columns[..., 0], columns[..., 1]
    ends = percentile_interval(bootstrap_ratios(above, below)).tolist()
    metrics: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    for name, top, bottom, interval in zip(_MEASURES, above.sum(1), below.sum(1), ends,
                                           strict=True):
        if bottom:
            metrics[name], intervals[name] = float(top / bottom), interval
    classes = _summarize_classes(rows)
    if classes:
        metrics['macro_f1'] = float(np.mean([numbers['f1'] for numbers in classes.values()]))
    metrics.update(n=len(rows), n_images=len(images))
    failures = Counter(row['failure'] for row in rows if row['failure'] is not None)
    metrics.update({f'failed_{reason}': count for reason, count in sorted(failures.items())})
    return metrics, intervals, classes


def _summarize_classes(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """The numbers of each class, by decreasing number of targets."""
    sums: dict[str, np.ndarray] = {}
    for row in rows:
        for name, counts in row['classes'].items():
            sums[name] = sums.get(name, np.zeros(3, int)) + counts
    classes = {}
    for name, (right, wrong, missed) in sorted(
            sums.items(), key=lambda item: (-item[1][0] - item[1][2], item[0])):
        classes[name] = dict(
            targets=int(right + missed), objects=int(right + wrong),
            precision=100 * float(right / (right + wrong)) if right + wrong else None,
            recall=100 * float(right / (right + missed)) if right + missed else None,
            f1=200 * float(right / (2 * right + wrong + missed)))
    return classes


def format_classes(classes: Mapping[str, Mapping[str, Any]], most: int) -> str:
    """A table of the first classes."""
    lines = [f'{"class":24}{"targets":>8}{"objects":>8}{"precision":>10}{"recall":>8}{"F1":>7}']
    for name, numbers in list(classes.items())[:most]:
        precision, recall = ('-' if numbers[key] is None else f'{numbers[key]:.1f}'
                             for key in ('precision', 'recall'))
        lines.append(f'{name[:23]:24}{numbers["targets"]:8}{numbers["objects"]:8}{precision:>10}'
                     f'{recall:>8}{numbers["f1"]:7.1f}')
    if len(classes) > most:
        lines.append(f'... and {len(classes) - most} more classes, in the .json')
    return '\n'.join(lines)
