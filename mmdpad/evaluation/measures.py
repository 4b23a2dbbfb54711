# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What the numbers of a result are made of: measures of its rows, by kind of result."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Row = dict[str, Any]
# What a row adds to a metric's numerator and denominator; None if it does not count for it.
Measure = Callable[[Row], tuple[float, float] | None]


class Column(NamedTuple):
    """How a table shows a metric: its title, and the digits after the point."""
    title: str
    digits: int = 1


@dataclass(frozen=True, eq=False)  # compared by identity, so that it can be a key
class ResultKind:
    """The rows that one metric writes, and how they are summed up and shown.

    Attributes:
        metric: Name of the metric's class.
        prefix: Its prefix, unless a config sets another one.
        mark: A column that only rows of this kind have.
        needed: Columns that every version of the metric writes; a row without them comes from
            elsewhere.
        measures: Rows -> their metrics that are ratios of sums over rows, by name.
        numbers: Rows -> their other metrics.
        intervals: Rows -> [low, high] of those of them that have an interval.
        tables: Rows -> further entries of the summary.
        columns: The metrics of a comparison, in order.
        other_names: Pattern of the names of other metrics.
        bounded: Metrics whose intervals are metrics, too: ``<name>_low`` and ``<name>_high``.
        shown: The most important metrics, the main one first.
        units: A sentence about the units of ``columns``.
        by_image: Whether intervals are over images, each with all its rows, and not over rows.
        quality: How good the answer of a row is; larger is better.
        quality_name: What this is.
    """

    metric: str
    prefix: str
    mark: str
    needed: tuple[str, ...]
    measures: Callable[[Sequence[Row]], Mapping[str, Measure]]
    numbers: Callable[[Sequence[Row]], dict[str, float]]
    columns: Mapping[str, Column]
    other_names: str
    bounded: tuple[str, ...]
    shown: tuple[str, ...]
    units: str
    quality: Callable[[Row], float]
    quality_name: str
    by_image: bool = False
    tables: Callable[[Sequence[Row]], dict[str, Any]] = lambda rows: {}
    intervals: Callable[[Sequence[Row]], dict[str, list[float]]] = lambda rows: {}

    @property
    def unit(self) -> str:
        """What intervals are over, in the plural."""
        return 'images' if self.by_image else 'samples'

    @property
    def main(self) -> str:
        """The most important metric, with its prefix."""
        return f'{self.prefix}/{self.shown[0]}'

    @staticmethod
    def less_is_better(name: str) -> bool:
        """Whether a metric, without prefix, counts what is wrong."""
        return (name.endswith(('_rate', '_error', '_aurc')) or name.startswith('failed_')
                or name in ('ece', 'ece_width', 'brier'))

    def has(self, name: str) -> bool:
        """Whether results may have a metric of this name, without prefix."""
        ends = [f'{bounded}_(low|high)' for bounded in self.bounded]
        return name in self.columns or re.fullmatch(
            '|'.join(['n', r'failed_\w+', self.other_names, *ends]), name) is not None


def mean(key: str, scale: float = 1.0, belongs: Callable[[Row], bool] = lambda row: True
         ) -> Measure:
    """The mean of a column over the rows that belong and have a value."""
    def measure(row: Row) -> tuple[float, float] | None:
        value = row.get(key) if belongs(row) else None
        return None if value is None else (scale * value, 1)
    return measure


def share(part: float, whole: float) -> tuple[float, float] | None:
    """What a row adds to a ratio; it does not count if the whole is 0."""
    return (part, whole) if whole else None


def number_images(rows: Sequence[Row]) -> list[int]:
    """The number of each row's image, from 0 on in the order of the rows. A row without an id is an
    image of its own."""
    numbers: dict[Any, int] = {}
    return [numbers.setdefault(place if row['id'] is None else str(row['id']), len(numbers))
            for place, row in enumerate(rows)]


RESPONSE_MEASURES: dict[str, Measure] = dict(
    parse_failure_rate=lambda row: (row['failure'] is not None, 1),
    truncated_rate=lambda row: (bool(row['truncated']), 1),
    reasoning_tokens=mean('reasoning_tokens'), caption_tokens=mean('caption_tokens'),
    repetition=mean('repetition'), turns=mean('turns'), zoomed_rate=mean('zoomed'),
    bad_calls=mean('bad_calls'))
"""Metrics of the response, whatever it answers, see
:func:`mmdpad.evaluation.scoring.describe_response`."""

RESPONSE_COLUMNS = dict(
    parse_failure_rate=Column('failures', 3), truncated_rate=Column('truncated', 3),
    reasoning_tokens=Column('reasoning, tokens'), caption_tokens=Column('caption, tokens'),
    repetition=Column('repetition', 3), turns=Column('turns', 2), zoomed_rate=Column('zoomed', 3),
    bad_calls=Column('bad calls', 2))
