# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The metrics of answers in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .measures import RESPONSE_COLUMNS, RESPONSE_MEASURES, Column, Measure, ResultKind, Row


def _of_evidence(measure: Measure) -> Measure:
    """A measure for questions whose evidence the data know."""
    return lambda row: measure(row) if row['num_evidence'] else None


def _of_type(name: str) -> Measure:
    return lambda row: (100 * row['accuracy'], 1) if row.get('question_type') == name else None


_MEASURES: dict[str, Measure] = dict(
    accuracy=lambda row: (100 * row['accuracy'], 1),
    evidence_iou=_of_evidence(lambda row: (100 * row['evidence_iou'], 1)),
    evidence_recall=_of_evidence(lambda row: (100 * row['evidence_found'], row['num_evidence'])),
    evidence_accuracy=_of_evidence(lambda row: (100 * row['evidence_right'], 1)),
    accuracy_given_right_evidence=_of_evidence(
        lambda row: (100 * row['accuracy'], 1) if row['evidence_right'] else None),
    accuracy_given_wrong_evidence=_of_evidence(
        lambda row: None if row['evidence_right'] else (100 * row['accuracy'], 1)),
    grounded_accuracy=_of_evidence(
        lambda row: (100 * row['accuracy'] * row['evidence_right'], 1)),
    no_evidence_rate=_of_evidence(
        lambda row: None if row['failure'] else (float(not row['boxes']), 1)),
    **RESPONSE_MEASURES)


def _measures(rows: Sequence[Row]) -> Mapping[str, Measure]:
    """Those of all questions, and the accuracy of each type of question."""
    types = sorted({row['question_type'] for row in rows if row.get('question_type')})
    return _MEASURES | {f'accuracy_of_{name}': _of_type(name) for name in types}


ANSWERS = ResultKind(
    metric='QuestionAnsweringMetric', prefix='vqa', mark='accuracy',
    needed=('id', 'question', 'accuracy', 'num_evidence', 'failure', 'truncated'),
    measures=_measures,
    numbers=lambda rows: dict(n_evidence=sum(row['num_evidence'] > 0 for row in rows)),
    columns=dict(
        accuracy=Column('accuracy'), evidence_iou=Column('evidence IoU'),
        evidence_recall=Column('evidence recall'), evidence_accuracy=Column('evidence right'),
        accuracy_given_right_evidence=Column('accuracy, evidence right'),
        accuracy_given_wrong_evidence=Column('accuracy, evidence wrong'),
        grounded_accuracy=Column('both right'), no_evidence_rate=Column('no evidence', 3),
        **RESPONSE_COLUMNS),
    other_names='n_evidence|accuracy_of_.+', bounded=('accuracy', ),
    shown=('accuracy', 'evidence_iou', 'parse_failure_rate', 'reasoning_tokens'),
    units='Accuracies and evidence are in percent; no evidence, failures, truncated and repetition '
          'are shares.',
    quality=lambda row: row['accuracy'], quality_name='accuracy')
