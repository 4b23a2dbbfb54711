# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The metrics of answers in words, as ratios of sums over rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Measure = Callable[[Row], tuple[float, float] | None]


def answer_measures(rows: Sequence[Row]) -> dict[str, Measure]:
    """The metrics of :class:`mmdpad.evaluation.QuestionAnsweringMetric` for these rows, including
    the accuracy of each type of question, by name."""
    types = sorted({row['question_type'] for row in rows if row.get('question_type')})
    return dict(
        accuracy=lambda row: (100 * row['accuracy'], 1),
        evidence_iou=_of_evidence(lambda row: (100 * row['evidence_iou'], 1)),
        evidence_recall=_of_evidence(lambda row: (100 * row['evidence_found'],
                                                  row['num_evidence'])),
        evidence_accuracy=_of_evidence(lambda row: (100 * row['evidence_right'], 1)),
        accuracy_given_right_evidence=_of_evidence(
            lambda row: (100 * row['accuracy'], 1) if row['evidence_right'] else None),
        accuracy_given_wrong_evidence=_of_evidence(
            lambda row: None if row['evidence_right'] else (100 * row['accuracy'], 1)),
        grounded_accuracy=_of_evidence(
            lambda row: (100 * row['accuracy'] * row['evidence_right'], 1)),
        no_evidence_rate=_of_evidence(
            lambda row: None if row['failure'] else (float(not row['boxes']), 1)),
        parse_failure_rate=lambda row: (row['failure'] is not None, 1),
        reasoning_tokens=_mean('reasoning_tokens'), caption_tokens=_mean('caption_tokens'),
        truncated_rate=lambda row: (bool(row['truncated']), 1),
        **{f'accuracy_of_{name}': _of_type(name) for name in types})


def _of_evidence(measure: Measure) -> Measure:
    """A measure for questions whose evidence the data know."""
    return lambda row: measure(row) if row['num_evidence'] else None


def _of_type(name: str) -> Measure:
    return lambda row: (100 * row['accuracy'], 1) if row.get('question_type') == name else None


def _mean(key: str) -> Measure:
    return lambda row: None if row.get(key) is None else (row[key], 1)
