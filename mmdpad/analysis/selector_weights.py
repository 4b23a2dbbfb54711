# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Weights of a sum of selectors, from the result of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from mmdpad.evaluation.best_of_n import SampledAnswers, check_sums
from mmdpad.evaluation.measures import Row
from mmdpad.evaluation.selection_summary import read_answers

STEPS = 4
_NAME = 'fitted'


def fit_weights(rows: Sequence[Row], names: Sequence[str]) -> dict[str, float]:
    """The weights with the highest gIoU of what the sum chooses among all N answers.

    A weight is a share divided by the spread of the selector's values (their standard deviation
    among the answers to a question, averaged over questions), and all shares in quarters are tried;
    of equally good ones, those win that give the first selectors most. Use the weights on other
    questions: on these, the best of many is too good.

    Args:
        rows: Lines of :class:`SelectionMetric`.
        names: Selectors. One whose values do not differ gets no weight.

    Returns:
        Name -> weight, with four significant digits, without those of 0.

    Raises:
        ValueError: One is unknown, or the values of none differ.
    """
    answers = read_answers(rows)
    check_sums({_NAME: dict.fromkeys(names, 1.0)}, answers[0].own_values)
    spreads = {name: spread for name in names if (spread := _spread(answers, name))}
    if not spreads:
        raise ValueError(f'Of the selectors {", ".join(names)}, at least one should have different '
                         f'values of the answers to a question, but none has; name others')
    best, chosen = -1.0, dict[str, float]()
    for shares in sorted(product(range(STEPS + 1), repeat=len(spreads)), reverse=True):
        if sum(shares) == STEPS:
            weights = {name: float(f'{share / STEPS / spread:.4g}') for (name, spread), share in
                       zip(spreads.items(), shares, strict=True) if share}
            giou = np.mean([replace(one, sums={_NAME: weights}).outcome(_NAME, len(one))[0]
                            for one in answers])
            if giou > best:
                best, chosen = float(giou), weights
    return chosen


def _spread(answers: Sequence[SampledAnswers], name: str) -> float:
    known = [own for one in answers if len(own := _known(one.values(name)))]
    return float(np.mean([own.std() for own in known])) if known else 0.0


def _known(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]
