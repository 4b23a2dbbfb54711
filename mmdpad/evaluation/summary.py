# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Computes a table's numbers and their intervals from rows about samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .answer_summary import ANSWERS
from .bootstrap import LEVEL, RESAMPLES, SEED, bootstrap_ratios, percentile_interval
from .detection_summary import DETECTIONS
from .measures import ResultKind, Row, number_images
from .segmentation_summary import SEGMENTATION
from .selection_summary import SELECTION

KINDS = (SEGMENTATION, ANSWERS, DETECTIONS, SELECTION)
"""All kinds of results. Rows of the last also have the columns of the first."""

METRICS = ' or '.join(kind.metric for kind in KINDS)
"""Who writes results, for messages."""


def kind_of(rows: Sequence[Row]) -> ResultKind:
    """Of which kind rows are, as the first one says.

    Raises:
        ValueError: No rows, or of another kind.
    """
    if not rows:
        raise ValueError('`rows` should have at least one sample to average over, but got none')
    for kind in reversed(KINDS):
        if kind.mark in rows[0]:
            return kind
    raise ValueError(f'`rows` should be lines of {METRICS}, but the first one has none of their '
                     f'columns {", ".join(kind.mark for kind in KINDS)}')


def kind_of_summary(summary: Mapping[str, Any]) -> ResultKind | None:
    """Of which kind a result's ``.json`` is; None if its metrics do not say so."""
    return next((kind for kind in KINDS if kind.shown[0] in summary.get('metrics', ())), None)


def kind_of_main(name: str) -> ResultKind | None:
    """Of which kind a metric is the main one, with or without the prefix of a data set; None if of
    none."""
    return next((kind for kind in KINDS if f'/{name}'.endswith(f'/{kind.main}')), None)


def summarize(rows: Sequence[Row]) -> dict[str, float]:
    """The metrics of the rows (or the lines of their file), without intervals.

    Raises:
        ValueError: See :func:`kind_of`.
    """
    names, numerators, denominators = ratios(rows)
    metrics: dict[str, float] = {
        name: float(above / below) if below else 0.0 for name, above, below in
        zip(names, numerators.sum(axis=1), denominators.sum(axis=1), strict=True)}
    metrics |= dict(n=len(rows)) | kind_of(rows).numbers(rows)
    failures = Counter(row['failure'] for row in rows if row['failure'] is not None)
    return metrics | {f'failed_{reason}': count for reason, count in sorted(failures.items())}


def find_intervals(rows: Sequence[Row]) -> dict[str, list[float]]:
    """[low, high] of each of :func:`ratios` and of some numbers (``intervals`` of the kind), see
    :func:`describe_bootstrap`."""
    names, *columns = ratios(rows)
    ends = percentile_interval(bootstrap_ratios(*columns)).tolist()
    return dict(zip(names, ends, strict=True)) | kind_of(rows).intervals(rows)


def describe_bootstrap(kind: ResultKind) -> dict[str, Any]:
    """How intervals are computed, as result files say it."""
    return dict(method=f'percentile, over {kind.unit}', level=LEVEL, resamples=RESAMPLES, seed=SEED)


def ratios(rows: Sequence[Row]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Every metric that is a ratio of sums: sum_i a_i / sum_i b_i over N samples, or images with
    all their questions (``by_image`` of the kind; a row without an id is an image).

    Returns:
        Names of the K metrics that at least one row counts for; a and b, float64 (K, N), both 0
        where no row counts.

    Raises:
        ValueError: See :func:`kind_of`.
    """
    kind = kind_of(rows)
    found = {name: [measure(row) for row in rows] for name, measure in kind.measures(rows).items()}
    found = {name: pairs for name, pairs in found.items() if any(pairs)}
    columns = np.array([[pair or (0, 0) for pair in pairs] for pairs in found.values()], float)
    if kind.by_image:
        images = number_images(rows)
        sums = np.zeros((len(columns), max(images) + 1, 2))
        np.add.at(sums, (slice(None), images), columns)
        columns = sums
    return list(found), columns[..., 0], columns[..., 1]
