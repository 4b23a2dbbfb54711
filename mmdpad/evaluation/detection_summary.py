# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The metrics of detections, and of their scores unless all of them are 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from .calibration import (
    calibration_error_interval,
    expected_calibration_error,
    reliability_curve,
)
from .measures import (
    RESPONSE_COLUMNS,
    RESPONSE_MEASURES,
    Column,
    Measure,
    ResultKind,
    Row,
    number_images,
    share,
)


def _rejected(row: Row) -> tuple[float, float] | None:
    """For a question without a target, whether the answer is usable and has no object."""
    return None if row['targets'] else (
        100 * (row['failure'] is None and not row['right'] + row['wrong']), 1)


def _answered(row: Row) -> tuple[float, float] | None:
    """For the others, whether the answer is usable and has one."""
    return (100 * (row['failure'] is None and row['objects'] > 0), 1) if row['targets'] else None


_MEASURES: dict[str, Measure] = dict(
    f1=lambda row: share(200 * row['right'], 2 * row['right'] + row['wrong'] + row['missed']),
    precision=lambda row: share(100 * row['right'], row['right'] + row['wrong']),
    recall=lambda row: share(100 * row['right'], row['targets']),
    mean_iou=lambda row: share(100 * row['iou'], row['right']),
    count_error=lambda row: (abs(row['right'] + row['wrong'] - row['targets']), 1),
    no_target_accuracy=_rejected, target_accuracy=_answered,
    invented_rate=lambda row: share(row['invented'], row['objects']),
    duplicate_rate=lambda row: share(row['duplicates'], row['objects']),
    **RESPONSE_MEASURES)


# Names of expected calibration errors -> their bins.
_CALIBRATION_ERRORS = dict(ece='mass', ece_width='width')


def _squared_errors(row: Row) -> tuple[float, float] | None:
    """What a row adds to the Brier score: that of each box that is right or wrong."""
    errors = [(score - right)**2 for score, right in
              zip(row['scores'], row['box_right'], strict=True) if right is not None]
    return share(sum(errors), len(errors))


def _scored_boxes(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Score, whether it is right, and the number of the row of each box that is right or wrong;
    None if all scores are 1."""
    boxes = [(score, right, number) for number, row in enumerate(rows) for score, right in
             zip(row['scores'], row['box_right'], strict=True) if right is not None]
    if all(score == 1 for score, _, _ in boxes):
        return None
    scores, right, places = zip(*boxes, strict=True)
    return np.array(scores, np.float64), np.array(right, bool), np.array(places)


def _measures(rows: Sequence[Row]) -> dict[str, Measure]:
    return dict(_MEASURES, brier=_squared_errors) if _scored_boxes(rows) else _MEASURES


def _intervals(rows: Sequence[Row]) -> dict[str, list[float]]:
    if (found := _scored_boxes(rows)) is None:
        return {}
    scores, right, places = found
    images = np.array(number_images(rows))
    return {name: calibration_error_interval(scores, right, images[places], images.max() + 1,
                                             equal)
            for name, equal in _CALIBRATION_ERRORS.items()}


def _tables(rows: Sequence[Row]) -> dict[str, Any]:
    found = _scored_boxes(rows)
    return dict(classes=summarize_classes(rows),
                reliability=reliability_curve(*found[:2]) if found else [])


def _numbers(rows: Sequence[Row]) -> dict[str, float]:
    classes = summarize_classes(rows)
    numbers: dict[str, float] = dict(
        macro_f1=fmean(one['f1'] for one in classes.values())) if classes else {}
    numbers['n_images'] = max(number_images(rows)) + 1
    if nothing := sum(not row['targets'] for row in rows):
        numbers['n_no_target'] = nothing
    if found := _scored_boxes(rows):
        for name, equal in _CALIBRATION_ERRORS.items():
            numbers[name] = expected_calibration_error(*found[:2], equal=equal)
    return numbers


def _quality(row: Row) -> float:
    """F1 in [0, 1]; 1 if there is nothing and nothing was named."""
    if row['failure'] is not None:
        return 0.0
    objects = 2 * row['right'] + row['wrong'] + row['missed']
    return 2 * row['right'] / objects if objects else 1.0


def summarize_classes(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """The ``precision``, ``recall``, ``f1`` (percent; None without a denominator), ``targets`` and
    ``objects`` of each class by name, by decreasing number of targets."""
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


DETECTIONS = ResultKind(
    metric='DetectionMetric', prefix='detection', mark='duplicates',
    needed=('id', 'question', 'targets', 'right', 'wrong', 'missed', 'iou', 'objects', 'invented',
            'duplicates', 'classes', 'scores', 'box_right', 'features', 'failure', 'truncated'),
    measures=_measures, numbers=_numbers, intervals=_intervals, tables=_tables,
    columns=dict(
        f1=Column('F1'), precision=Column('precision'), recall=Column('recall'),
        macro_f1=Column('macro F1'), mean_iou=Column('IoU of matches'),
        count_error=Column('count error', 2), no_target_accuracy=Column('N-acc'),
        target_accuracy=Column('T-acc'), invented_rate=Column('invented', 3),
        duplicate_rate=Column('duplicates', 3), ece=Column('ECE', 3),
        ece_width=Column('ECE, equal width', 3), brier=Column('Brier', 3), **RESPONSE_COLUMNS),
    other_names='n_(images|no_target)', bounded=('f1', 'precision', 'recall', 'ece', 'brier'),
    shown=('f1', 'precision', 'recall', 'parse_failure_rate', 'reasoning_tokens'),
    units='F1, precision, recall, IoU and accuracies are in percent; the count error is in '
          'objects; invented, duplicates, failures, truncated and repetition are shares.',
    quality=_quality, quality_name='F1', by_image=True)
