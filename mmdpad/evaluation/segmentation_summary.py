# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The metrics of masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .measures import RESPONSE_COLUMNS, RESPONSE_MEASURES, Column, Measure, ResultKind, Row, mean


def _is_short(row: Row) -> bool:
    return row['is_sentence'] is False


def _is_long(row: Row) -> bool:
    return row['is_sentence'] is True


def means_nothing(row: Row) -> bool:
    """Whether a row's question has no target. False if a target is meant but not marked: then the
    protocol decides what is right."""
    return row.get('num_targets') == 0 and not row.get('empty_target')


def _pooled_iou(belongs: Callable[[Row], bool] = lambda row: True) -> Measure:
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


MEASURES: dict[str, Measure] = dict(
    giou=mean('iou', 100), ciou=_pooled_iou(),
    short_giou=mean('iou', 100, _is_short), short_ciou=_pooled_iou(_is_short),
    long_giou=mean('iou', 100, _is_long), long_ciou=_pooled_iou(_is_long),
    pointing_accuracy=mean('pointing', 100), box_accuracy=mean('boxes_right', 100),
    no_target_accuracy=mean('iou', 100, means_nothing), target_accuracy=_found_target,
    **RESPONSE_MEASURES,
    fallback_rate=_fell_back, vlm_calls=mean('vlm_calls'), sam_calls=mean('sam_calls'),
    generated_tokens=mean('generated_tokens'))
"""Metrics that are ratios of sums over samples, by name."""


def _measures(rows: Sequence[Row]) -> Mapping[str, Measure]:
    left_out = () if any(map(means_nothing, rows)) else ('target_accuracy', )
    return {name: measure for name, measure in MEASURES.items() if name not in left_out}


def _numbers(rows: Sequence[Row]) -> dict[str, float]:
    numbers: dict[str, float] = dict(n_short=sum(map(_is_short, rows)),
                                     n_long=sum(map(_is_long, rows)))
    if any('fallback' in row for row in rows):
        fallbacks = [one for row in rows for one in row.get('fallback') or ()]
        numbers |= dict(n_objects=len(fallbacks), n_fallback=sum(fallbacks))
    if nothing := sum(row.get('num_targets') == 0 for row in rows):
        numbers['n_no_target'] = nothing
    return numbers


SEGMENTATION = ResultKind(
    metric='ReasonSegMetric', prefix='reasonseg', mark='intersection',
    needed=('id', 'question', 'is_sentence', 'iou', 'intersection', 'union', 'failure',
            'truncated'),
    measures=_measures, numbers=_numbers,
    columns=dict(
        giou=Column('gIoU'), ciou=Column('cIoU'), short_giou=Column('short gIoU'),
        short_ciou=Column('short cIoU'), long_giou=Column('long gIoU'),
        long_ciou=Column('long cIoU'), pointing_accuracy=Column('pointing'),
        box_accuracy=Column('box'), no_target_accuracy=Column('N-acc'),
        target_accuracy=Column('T-acc'), **RESPONSE_COLUMNS, fallback_rate=Column('fallback', 3),
        vlm_calls=Column('VLM calls'), sam_calls=Column('SAM calls'),
        generated_tokens=Column('generated, tokens')),
    other_names='n_(short|long|no_target|objects|fallback)', bounded=('giou', 'ciou'),
    shown=('giou', 'ciou', 'parse_failure_rate', 'reasoning_tokens'),
    units='IoU and accuracies are in percent; failures, truncated, repetition and fallback are '
          'shares.',
    quality=lambda row: row['iou'], quality_name='IoU')
