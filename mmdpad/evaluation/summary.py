# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Computes a table's numbers and their intervals from rows about samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .answer_summary import answer_measures
from .bootstrap import LEVEL, RESAMPLES, SEED, bootstrap_ratios, percentile_interval

Row = dict[str, Any]
# What a row adds to a metric's numerator and denominator; None if it does not count for it.
Measure = Callable[[Row], tuple[float, float] | None]

BOOTSTRAP = dict(method='percentile, over samples', level=LEVEL, resamples=RESAMPLES, seed=SEED)
"""How intervals are computed, as result files say it."""


def summarize(rows: Sequence[Row]) -> dict[str, float]:
    """The metrics of :class:`ReasonSegMetric` or :class:`QuestionAnsweringMetric` from its rows (or
    the lines of its file), without intervals.

    Raises:
        ValueError: No rows.
    """
    names, numerators, denominators = ratios(rows)
    metrics: dict[str, float] = {
        name: float(above / below) if below else 0.0 for name, above, below in
        zip(names, numerators.sum(axis=1), denominators.sum(axis=1), strict=True)}
    metrics['n'] = len(rows)
    if are_answers(rows):
        metrics['n_evidence'] = sum(row['num_evidence'] > 0 for row in rows)
    else:
        metrics.update({f'n_{name}': sum(map(belongs, rows)) for name, belongs in PARTS.items()})
    if any('fallback' in row for row in rows):
        fallbacks = [one for row in rows for one in row.get('fallback') or ()]
        metrics |= dict(n_objects=len(fallbacks), n_fallback=sum(fallbacks))
    if nothing := sum(row.get('num_targets') == 0 for row in rows):
        metrics['n_no_target'] = nothing
    failures = Counter(row['failure'] for row in rows if row['failure'] is not None)
    metrics.update({f'failed_{reason}': count for reason, count in sorted(failures.items())})
    return metrics


def find_intervals(rows: Sequence[Row]) -> dict[str, list[float]]:
    """[low, high] of each of :func:`ratios`, see :data:`BOOTSTRAP`."""
    names, *columns = ratios(rows)
    return dict(zip(names, percentile_interval(bootstrap_ratios(*columns)).tolist(), strict=True))


def ratios(rows: Sequence[Row]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Every metric that is a ratio of sums over samples: sum_i a_i / sum_i b_i.

    Returns:
        Names of the K metrics that at least one row counts for; a and b, float64 (K, N), both 0
        where a row does not count.

    Raises:
        ValueError: No rows.
    """
    if not rows:
        raise ValueError('`rows` should have at least one sample to average over, but got none')
    measures = answer_measures(rows) if are_answers(rows) else MEASURES
    found = {name: [measure(row) for row in rows] for name, measure in measures.items()}
    if not any(map(_means_nothing, rows)):
        found.pop('target_accuracy', None)
    found = {name: pairs for name, pairs in found.items() if any(pairs)}
    columns = np.array([[pair or (0, 0) for pair in pairs] for pairs in found.values()], float)
    return list(found), columns[..., 0], columns[..., 1]


def are_answers(rows: Sequence[Row]) -> bool:
    """Whether rows are about answers in words."""
    return bool(rows) and 'accuracy' in rows[0]


def _always(row: Row) -> bool:
    return True


def _is_short(row: Row) -> bool:
    return row['is_sentence'] is False


def _is_long(row: Row) -> bool:
    return row['is_sentence'] is True


def _means_nothing(row: Row) -> bool:
    """Whether a row's question has no target. False if a target is meant but not marked: then the
    protocol decides what is right."""
    return row.get('num_targets') == 0 and not row.get('empty_target')


def _mean(key: str, scale: float = 1.0, belongs: Callable[[Row], bool] = _always) -> Measure:
    """The mean of a column over the rows that belong and have a value."""
    def measure(row: Row) -> tuple[float, float] | None:
        value = row.get(key) if belongs(row) else None
        return None if value is None else (scale * value, 1)
    return measure


def _pooled_iou(belongs: Callable[[Row], bool]) -> Measure:
    """Total intersection over total union in percent."""
    return lambda row: (100 * row['intersection'], row['union']) if belongs(row) else None


def _found_target(row: Row) -> tuple[float, float] | None:
    """For a sample with a target, whether the answer is usable and not empty."""
    if row.get('num_targets') == 0:
        return None
    return 100 * (row['failure'] is None and row.get('area', 1) > 0), 1


def _fell_back(row: Row) -> tuple[float, float] | None:
    """How many of a sample's objects were decoded without the caption."""
    rows = row.get('fallback')
    return (sum(rows), len(rows)) if rows else None


PARTS = dict(short=_is_short, long=_is_long)
"""Parts of a data set that are reported separately: LISA's short and long queries."""

MEASURES: dict[str, Measure] = dict(
    giou=_mean('iou', 100), ciou=_pooled_iou(_always),
    short_giou=_mean('iou', 100, _is_short), short_ciou=_pooled_iou(_is_short),
    long_giou=_mean('iou', 100, _is_long), long_ciou=_pooled_iou(_is_long),
    pointing_accuracy=_mean('pointing', 100), box_accuracy=_mean('boxes_right', 100),
    no_target_accuracy=_mean('iou', 100, _means_nothing), target_accuracy=_found_target,
    parse_failure_rate=lambda row: (row['failure'] is not None, 1),
    reasoning_tokens=_mean('reasoning_tokens'), caption_tokens=_mean('caption_tokens'),
    repetition=_mean('repetition'), truncated_rate=lambda row: (bool(row['truncated']), 1),
    fallback_rate=_fell_back, vlm_calls=_mean('vlm_calls'), sam_calls=_mean('sam_calls'),
    generated_tokens=_mean('generated_tokens'))
"""Metrics that are ratios of sums over samples, by name."""
