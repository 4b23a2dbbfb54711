# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What a selector's choice among n of N answers is worth, from the row of a question.

The n answers are a random part of the N, and what is computed is the mean over such parts. Where a
selector values each answer by itself, that is the mean over all C(N, n) parts, in closed form: the
estimator of pass@k (arXiv 2107.03374), of which no unbiased one has less variance, for any score in
place of right or wrong. Where it compares the answers (consensus, the vote, and sums with the
former), it is the mean over the N // n parts of n consecutive draws. The first n alone would be
unbiased, too, but noisier.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import comb, isfinite
from typing import Any

import numpy as np

from mmdpad.structures.candidates import agreement

from .measures import Row

CONSENSUS, VOTE = 'consensus', 'vote'
"""Selectors that compare the answers: the mask that overlaps most with the others, and the pixels
that most masks have."""
NOT_SELECTORS = ('greedy', 'mean', 'oracle')
"""Other ways to get an answer: greedily, one of the N at random, and the best by the truth."""
SCORES = ('iou', 'intersection', 'union', 'hit')
"""What is known of an answer; ``hit`` is 1 if the IoU exceeds 0.5."""


def numbers_of_answers(most: int) -> list[int]:
    """1, 2, 4, ..., and ``most``."""
    return [*(2**k for k in range(most.bit_length()) if 2**k < most), most]


def parts_of(most: int, n: int) -> list[slice]:
    """The parts of n consecutive draws."""
    return [slice(start, start + n) for start in range(0, most - n + 1, n)]


def preference(values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """The answers, best first: usable ones before others, those with a value before NaN, higher
    values first, and of equal ones the earlier draw.

    Args:
        values, usable: float and bool (N,).

    Returns:
        long (N,).
    """
    return np.lexsort((np.where(np.isnan(values), np.inf, -values), ~usable))


@cache
def chances_of_ranks(most: int, n: int) -> np.ndarray:
    """How likely the answer of each rank r = 0, 1, ... among N (``most``) is the best of n that are
    drawn without replacement: C(N - 1 - r, n - 1) / C(N, n), float64 (N,)."""
    return np.array([comb(most - 1 - rank, n - 1) / comb(most, n) for rank in range(most)])


def scores_of(answers: Sequence[Row]) -> np.ndarray:
    """:data:`SCORES` of answers, float64 (4, n)."""
    return np.array([[one['iou'], one['intersection'], one['union'], one['iou'] > 0.5]
                     for one in answers], np.float64).T


def check_names(names: Iterable[str], *taken: str) -> None:
    """Check that names of selectors can be told apart from other ways to get an answer and from
    those in ``taken``, and can be in the names of metrics.

    Raises:
        ValueError: They cannot.
    """
    taken = (*NOT_SELECTORS, CONSENSUS, VOTE, *taken)
    if wrong := [name for name in names if name in taken or not name.isidentifier()]:
        raise ValueError(f'A selector to be compared should be named by letters, digits and _, but '
                         f'not {", ".join(taken)}, but got {wrong[0]!r}; rename it')


def check_sums(sums: Mapping[str, Mapping[str, float]], values: Collection[str]) -> None:
    """Check that weighted sums are over selectors whose values are known, by their names, or
    consensus, and have other names.

    Raises:
        ValueError: They are not.
    """
    check_names(sums, *values)
    known = [*values, CONSENSUS]
    for name, weights in sums.items():
        if not any(weights.values()) or not all(map(isfinite, weights.values())):
            raise ValueError(f'`sums` should have finite weights that are not all 0, but {name!r} '
                             f'has {dict(weights)}; correct them')
        if unknown := weights.keys() - known:
            raise ValueError(
                f'`sums` should have weights of {", ".join(known)}, but {name!r} has one of '
                f'{", ".join(sorted(unknown))}; correct it, or let the model measure this '
                f'selector, too, in `model.test_cfg.select` with the weight 0')


@dataclass(frozen=True)
class SampledAnswers:
    """The N answers to a question, from its line of :class:`SelectionMetric`.

    Attributes:
        scores: :data:`SCORES`, float64 (4, N).
        usable: bool (N,).
        own_values: Of the selectors that value each answer by itself, float64 (N,), NaN without
            one.
        overlaps: float64 (N, N), see :class:`mmdpad.structures.Selection`.
        vote: n -> ``scores`` and ``value``, as in the line.
        sums: Name -> the weights of selectors, as in :class:`mmdpad.models.WeightedSelector`.
        greedy: :data:`SCORES` of the greedy answer, float64 (4,), if there is one.
    """

    scores: np.ndarray
    usable: np.ndarray
    own_values: dict[str, np.ndarray]
    overlaps: np.ndarray
    vote: Mapping[str, Mapping[str, Any]]
    sums: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    greedy: np.ndarray | None = None

    @classmethod
    def of(cls, row: Row) -> SampledAnswers:
        """Read a line."""
        answers = row['candidates']
        return cls(
            scores_of(answers), np.array([one['usable'] for one in answers]),
            {name: np.array([one['values'][name] for one in answers], np.float64)
             for name in answers[0]['values']}, np.array(row['overlaps'], np.float64),
            row['vote'], row['sums'], scores_of([row['greedy']])[:, 0] if row['greedy'] else None)

    def __len__(self) -> int:
        return len(self.usable)

    @property
    def selectors(self) -> list[str]:
        """The names of all selectors."""
        return [*self.own_values, CONSENSUS, VOTE, *self.sums]

    def values(self, name: str, part: slice = slice(None)) -> np.ndarray:
        """A selector's values of a part of the answers, float64 (n,), NaN without one; of all
        selectors but the vote."""
        if name == CONSENSUS:
            return agreement(self.overlaps[part, part], self.usable[part])
        if name in self.sums:
            return np.sum([weight * self.values(one, part)
                           for one, weight in self.sums[name].items() if weight], axis=0)
        return self.own_values[name][part]

    def outcome(self, way: str, n: int) -> np.ndarray:
        """The mean :data:`SCORES` of an answer that is got from n.

        Args:
            way: A selector, or one of :data:`NOT_SELECTORS`.
            n: One of :func:`numbers_of_answers`.

        Returns:
            float64 (4,).
        """
        if way == 'greedy':
            assert self.greedy is not None
            return self.greedy
        if way == VOTE:
            return np.array(self.vote[str(n)]['scores'], np.float64)
        if way == 'mean':
            return self.scores.mean(axis=1)
        if way == CONSENSUS or self.sums.get(way, {}).get(CONSENSUS):
            chosen = [part.start + self._best(self.values(way, part), part)
                      for part in parts_of(len(self), n)]
            return self.scores[:, chosen].mean(axis=1)
        order = preference(self.scores[0] if way == 'oracle' else self.values(way), self.usable)
        return self.scores[:, order] @ chances_of_ranks(len(self), n)

    def _best(self, values: np.ndarray, part: slice = slice(None)) -> int:
        return int(preference(values, self.usable[part])[0])

    def confidence(self, name: str, chosen_by: str | None = None) -> float:
        """A selector's value of what it chooses among all N, or, but not by the vote, of what
        another one chooses; -inf without one."""
        if name == VOTE:
            value = self.vote[str(len(self))]['value']
            return -np.inf if value is None else value
        values = self.values(name)
        best = self._best(self.values(chosen_by or name))
        return float(values[best]) if self.usable[best] and not np.isnan(values[best]) else -np.inf
