# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Which reward terms pay for longer reasoning, and which for shorter reasoning."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import fmean, stdev
from typing import Any

from mmdpad.prompts import read_parts
from mmdpad.structures.conversation import turns_of

Group = Sequence[tuple[int, Mapping[str, float]]]
"""Words of reasoning and rewards, per response."""


@dataclass(frozen=True)
class Stage:
    """A stage of training.

    Attributes:
        first, last: Iterations, from 1.
        groups: Number of groups whose responses differ in reasoning length.
        words: Mean words of reasoning of the longer and of the shorter responses.
        gaps: Term, and 'total' -> how much more the longer responses of a group earn than its
            shorter ones: mean over groups and its standard error (NaN for one group).
    """

    first: int
    last: int
    groups: int
    words: Sequence[float]
    gaps: dict[str, tuple[float, float]]


def length_gaps(rows: Iterable[Mapping[str, Any]], stages: int = 5) -> list[Stage]:
    """Compare responses with longer and shorter reasoning within each group, by training stage.

    All responses in a group answer the same prompt, so hard questions, which have longer reasoning
    and earn less, do not bias the comparison. Longer means more words of reasoning than the
    group's mean; missing reasoning has none. Terms are unweighted, as in the log.

    Args:
        rows: Lines of :class:`RolloutLogHook`, from one run or several; the lines of a group are
            consecutive.
        stages: Number of stages, with equally many iterations each.

    Returns:
        The stages that have such groups.

    Raises:
        ValueError: ``stages`` is below 1, or there are no lines.
    """
    if stages < 1:
        raise ValueError(f'`stages` should be at least 1, but got {stages}')
    groups = [(iteration, [(_words(row), {'total': row['total'], **_scored(row['rewards'])})
                           for row in lines])
              for (iteration, _), lines in groupby(rows, lambda row: (row['iter'], row['group']))]
    if not groups:
        raise ValueError('`rows` should be lines of a rollout log, but there are none')
    iterations = [iteration for iteration, _ in groups]
    first, count = min(iterations), max(iterations) - min(iterations) + 1
    bounds = [first + count * i // stages for i in range(stages + 1)]
    parts = [_compare(low, high - 1, [group for i, group in groups if low <= i < high])
             for low, high in pairwise(bounds)]
    return [part for part in parts if part.groups]


def _words(row: Mapping[str, Any]) -> int:
    """Words of reasoning, of all turns of a conversation."""
    return sum(len((read_parts(text)[0]['think'] or '').split()) for text in turns_of(row))


def _scored(rewards: Mapping[str, float | None]) -> dict[str, float]:
    """The terms that score the task of a response."""
    return {name: value for name, value in rewards.items() if value is not None}


def _compare(first: int, last: int, groups: Sequence[Group]) -> Stage:
    words, gaps = [], defaultdict(list)
    for group in groups:
        mean = fmean(length for length, _ in group)
        longer = [entry for entry in group if entry[0] > mean]
        shorter = [entry for entry in group if entry[0] < mean]
        if not longer:  # all have the same length
            continue
        words.append([fmean(length for length, _ in part) for part in (longer, shorter)])
        for name in group[0][1]:
            high, low = (fmean(terms[name] for _, terms in part) for part in (longer, shorter))
            gaps[name].append(high - low)
    return Stage(first, last, len(words), [fmean(side) for side in zip(*words, strict=True)],
                 {name: (fmean(values), stdev(values) / math.sqrt(len(values))
                         if len(values) > 1 else math.nan) for name, values in gaps.items()})


def format_stages(stages: Sequence[Stage]) -> str:
    """A table for the terminal, one line per stage."""
    names = list(dict.fromkeys(name for stage in stages for name in stage.gaps))
    table = [['iterations', 'groups', 'words', *names]]
    for stage in stages:
        longer, shorter = stage.words
        table.append([f'{stage.first}-{stage.last}', str(stage.groups),
                      f'{longer:.1f}, {shorter:.1f}',
                      *('{:+.3f} ± {:.3f}'.format(*stage.gaps[name]) if name in stage.gaps else '-'
                        for name in names)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return '\n'.join('  '.join(map(str.rjust, row, widths)) for row in table)
