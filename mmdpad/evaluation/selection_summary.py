# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The metrics of choosing one of N answers to each question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .best_of_n import NOT_SELECTORS, SCORES, VOTE, SampledAnswers, numbers_of_answers
from .bootstrap import bootstrap_ratios, percentile_interval
from .measures import RESPONSE_COLUMNS, RESPONSE_MEASURES, Column, Measure, ResultKind, Row, mean
from .risk_coverage import (
    area_difference,
    area_interval,
    area_under_curve,
    best_area,
    risk_coverage_curve,
)
from .segmentation_summary import MEASURES, means_nothing

# Numbers of an outcome, in percent: numerator and, unless it is a mean, denominator.
_NUMBERS: dict[str, tuple[str, str | None]] = dict(
    giou=('iou', None), ciou=('intersection', 'union'), accuracy=('hit', None))
_COSTS: dict[str, Callable[[Row], float]] = dict(
    tokens=lambda row: sum(one['tokens'] for one in row['candidates']),
    seconds=lambda row: sum(row['seconds'].values()), clip_calls=lambda row: row['clip_calls'])


def read_answers(rows: Sequence[Row]) -> list[SampledAnswers]:
    """The N answers of each row.

    Raises:
        ValueError: N is not the same for all.
    """
    answers = [SampledAnswers.of(row) for row in rows]
    if len(found := sorted({*map(len, answers)})) > 1:
        raise ValueError(f'Rows should have equally many `candidates`, but have {found}; evaluate '
                         f'all questions with one `num_samples`')
    return answers


def ways_of(answers: Sequence[SampledAnswers]) -> list[str]:
    """The names of all ways to get an answer: 'greedy', if all questions have such an answer,
    'mean', the selectors, and 'oracle'; see :meth:`.SampledAnswers.outcome`."""
    greedy = ['greedy'] if all(one.greedy is not None for one in answers) else []
    return [*greedy, 'mean', *answers[0].selectors, 'oracle']


def _pair(scores: np.ndarray, number: str) -> tuple[float, float]:
    """What an outcome (4,) adds to one of :data:`_NUMBERS`."""
    above, below = _NUMBERS[number]
    return (100 * float(scores[SCORES.index(above)]),
            1 if below is None else float(scores[SCORES.index(below)]))


def _abstained(row: Row) -> tuple[float, float]:
    return 100 * (row['chosen'] is None), 1


def _measures(rows: Sequence[Row]) -> Mapping[str, Measure]:
    answers = read_answers(rows)
    ways = ways_of(answers)
    outcomes = {(id(row), way): one.outcome(way, len(one))
                for row, one in zip(rows, answers, strict=True) for way in ways}

    def of_way(way: str, number: str) -> Measure:
        return lambda row: _pair(outcomes[id(row), way], number)

    def of_cost(name: str) -> Measure:
        return lambda row: (_COSTS[name](row), 1)

    abstaining: dict[str, Measure] = {}
    if any(row['chosen'] is None for row in rows):
        abstaining = dict(
            coverage=lambda row: (100 * (row['chosen'] is not None), 1),
            answered_giou=mean('iou', 100, lambda row: row['chosen'] is not None),
            no_target_abstained=lambda row: _abstained(row) if means_nothing(row) else None,
            target_abstained=lambda row: None if means_nothing(row) else _abstained(row))
    return dict(
        chosen_giou=MEASURES['giou'], chosen_ciou=MEASURES['ciou'],
        **{f'{way}_{number}': of_way(way, number) for way in ways for number in _NUMBERS},
        **abstaining, **{name: of_cost(name) for name in _COSTS}, **RESPONSE_MEASURES)


def _confidences(answers: Sequence[SampledAnswers], name: str, chosen_by: str | None = None
                 ) -> tuple[np.ndarray, np.ndarray]:
    """A selector's confidence in its choice among all N, or in another one's, and the risk of
    this choice, (n,) each."""
    return (np.array([one.confidence(name, chosen_by) for one in answers]),
            np.array([1 - one.outcome(chosen_by or name, len(one))[0] for one in answers]))


def _numbers(rows: Sequence[Row]) -> dict[str, float]:
    answers = read_answers(rows)
    return dict(
        num_samples=len(answers[0]), n_no_target=sum(map(means_nothing, rows)),
        **{f'{name}_aurc': area_under_curve(*_confidences(answers, name))
           for name in answers[0].selectors})


def _intervals(rows: Sequence[Row]) -> dict[str, list[float]]:
    answers = read_answers(rows)
    return {f'{name}_aurc': area_interval(*_confidences(answers, name))
            for name in answers[0].selectors}


def compare_ways(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What each way to get an answer is worth, for n = 1, 2, 4, ..., N.

    Returns:
        For each n a dict of ``n``; ``tokens``, ``seconds`` and ``clip_calls`` of a question, the
        share n / N of those of all N; and ``ways``: name -> ``giou``, ``ciou`` and ``accuracy`` (an
        IoU above 0.5; that of the oracle is pass@n), and of selectors ``gain`` (gIoU above the
        mean), ``over_greedy`` (gIoU above the greedy answer) and ``gap_closed`` ((chosen - mean) /
        (oracle - mean) of gIoU), all in percent. Each is [value, low, high], where the bootstrap
        draws the same questions for all; None where a denominator is 0.
    """
    answers = read_answers(rows)
    most, ways = len(answers[0]), ways_of(answers)
    numbers = numbers_of_answers(most)
    keys = [(n, way, number) for n in numbers for way in ways for number in _NUMBERS]
    outcomes = {(n, way): [one.outcome(way, n) for one in answers]
                for n in numbers for way in ways}
    pairs = np.array([[_pair(scores, number) for scores in outcomes[n, way]]
                      for n, way, number in keys], np.float64)
    # The last draw has every question once.
    above, below = pairs.sum(axis=1).T
    values = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    draws = dict(zip(keys, np.vstack([bootstrap_ratios(pairs[..., 0], pairs[..., 1]), values]).T,
                     strict=True))
    costs = {name: float(np.mean([cost(row) for row in rows])) for name, cost in _COSTS.items()}

    def describe(n: int, way: str) -> dict[str, Any]:
        found = {number: draws[n, way, number] for number in _NUMBERS}
        if way not in NOT_SELECTORS:
            gain = found['giou'] - draws[n, 'mean', 'giou']
            gap = draws[n, 'oracle', 'giou'] - draws[n, 'mean', 'giou']
            found |= dict(gain=gain, gap_closed=np.divide(
                100 * gain, gap, out=np.full_like(gap, np.nan), where=gap > 1e-9))
            if 'greedy' in ways:
                found['over_greedy'] = found['giou'] - draws[n, 'greedy', 'giou']
        return {name: _with_ends(of) for name, of in found.items()}

    return [dict(n=n, **{name: cost * n / most for name, cost in costs.items()},
                 ways={way: describe(n, way) for way in ways}) for n in numbers]


def _with_ends(draws: np.ndarray) -> list[float] | None:
    """[value, low, high]; the value is the last entry."""
    if np.isnan(draws[-1]):
        return None
    return [float(draws[-1]), *percentile_interval(draws[:-1, None])[0].tolist()]


def judges_of(answers: SampledAnswers, chosen_by: str | None = None) -> list[str]:
    """The selectors whose value of what a selector chooses is known; of None, of their own choices.

    Raises:
        ValueError: There is no such selector, or it is the vote, whose answer the others did not
            value.
    """
    if chosen_by is None:
        return answers.selectors
    known = [name for name in answers.selectors if name != VOTE]
    _check_selector(chosen_by, known)
    return known


def _check_selector(name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(f'The selector should be one of {", ".join(known)}, but got {name!r}; '
                         f'name one of them')


def describe_abstention(rows: Sequence[Row], name: str, chosen_by: str | None = None
                        ) -> dict[str, Any]:
    """What rejecting the less certain choices among all N would do.

    Args:
        rows: The lines.
        name: The selector whose value is the confidence.
        chosen_by: The selector that chooses; None for the same.

    Returns:
        ``aurc``, [value, low, high]; ``best_aurc``, the lowest possible; ``over_own`` where another
        selector chooses, ``aurc`` minus that by the value of the one that chooses, negative if this
        one says better when to abstain; ``curve``, the points of
        :func:`.risk_coverage.risk_coverage_curve`, each as in :func:`reject_below`.
    """
    answers = read_answers(rows)
    confidences, risks = _confidences(answers, name, chosen_by)
    own = {}
    if chosen_by not in (None, name):
        own['over_own'] = area_difference(
            confidences, _confidences(answers, chosen_by, chosen_by)[0], risks)
    return dict(
        **own, aurc=[area_under_curve(confidences, risks), *area_interval(confidences, risks)],
        best_aurc=best_area(risks),
        curve=[point | _rejected_shares(rows, confidences, point['threshold'])
               for point in risk_coverage_curve(confidences, risks)])


def reject_below(rows: Sequence[Row], name: str, threshold: float,
                 chosen_by: str | None = None) -> dict[str, Any]:
    """What rejecting choices among all N below a threshold would do.

    Args:
        rows, name, chosen_by: See :func:`describe_abstention`.
        threshold: The lowest value of an answer that is not rejected.

    Returns:
        ``coverage``, the share of questions that is answered; ``risk``, the mean 1 - IoU of these,
        None without any; ``threshold``; and if the data have questions without a target,
        ``no_target_abstained``, the share of these that is rejected, and ``target_abstained``, that
        of the others; all in [0, 1].

    Raises:
        ValueError: There is no such selector.
    """
    answers = read_answers(rows)
    _check_selector(name, judges_of(answers[0], chosen_by))
    confidences, risks = _confidences(answers, name, chosen_by)
    answered = confidences >= threshold
    return dict(coverage=float(answered.mean()),
                risk=float(risks[answered].mean()) if answered.any() else None,
                threshold=threshold, **_rejected_shares(rows, confidences, threshold))


def _rejected_shares(rows: Sequence[Row], confidences: np.ndarray, threshold: float | None
                     ) -> dict[str, float]:
    """The shares ``no_target_abstained`` and ``target_abstained``; none if all have a target."""
    nothing = np.array([means_nothing(row) for row in rows])
    rejected = confidences < (-np.inf if threshold is None else threshold)
    return {key: float(rejected[kind].mean()) for key, kind in (
        ('no_target_abstained', nothing), ('target_abstained', ~nothing))
        if nothing.any() and kind.any()}


def describe_abstentions(rows: Sequence[Row], chosen_by: str | None = None
                         ) -> dict[str, dict[str, Any]]:
    """:func:`describe_abstention` by all selectors that can say it (:func:`judges_of`)."""
    return {name: describe_abstention(rows, name, chosen_by)
            for name in judges_of(SampledAnswers.of(rows[0]), chosen_by)}


def _tables(rows: Sequence[Row]) -> dict[str, Any]:
    return dict(by_number=compare_ways(rows), abstention=describe_abstentions(rows))


SELECTION = ResultKind(
    metric='SelectionMetric', prefix='selection', mark='candidates',
    needed=('id', 'question', 'iou', 'intersection', 'union', 'num_targets', 'candidates',
            'greedy', 'overlaps', 'vote', 'sums', 'chosen', 'seconds', 'clip_calls', 'failure',
            'truncated'),
    measures=_measures, numbers=_numbers, intervals=_intervals, tables=_tables,
    columns=dict(
        chosen_giou=Column('gIoU'), chosen_ciou=Column('cIoU'), greedy_giou=Column('greedy gIoU'),
        mean_giou=Column('mean gIoU'), oracle_giou=Column('oracle gIoU'),
        mean_accuracy=Column('pass@1'), oracle_accuracy=Column('pass@N'),
        coverage=Column('answered'), answered_giou=Column('gIoU, answered'),
        no_target_abstained=Column('abstained, no target'),
        target_abstained=Column('abstained, target'), tokens=Column('tokens', 0),
        seconds=Column('seconds', 2), clip_calls=Column('CLIP calls'), **RESPONSE_COLUMNS),
    other_names=r'num_samples|n_no_target|\w+_(giou|ciou|accuracy|aurc)',
    bounded=('chosen_giou', 'chosen_ciou'),
    shown=('chosen_giou', 'mean_giou', 'oracle_giou', 'tokens'),
    units='IoU, accuracies, answered and abstained are in percent; tokens, seconds and CLIP calls '
          'are those of all answers to a question; failures, truncated and repetition are shares.',
    quality=lambda row: row['iou'], quality_name='IoU')
