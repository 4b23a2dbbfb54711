# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Combines the scores of several scorers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmdpad.registry import MODELS

from .box_scorer import BoxScorer, GivenAnswer, ScoredObjects, build_scorer
from .log_odds import log_odds, sigmoid

MEANS = ('logit', 'geometric')


@MODELS.register_module()
class CombinedScorer(BoxScorer):
    """A weighted mean of the scores of several scorers; in [0, 1].

    With weights w_i that are divided by their sum, and the scores p_i of an object:

    - 'logit': sigmoid(sum_i w_i log(p_i / (1 - p_i))), with p_i clipped to [1e-6, 1 - 1e-6];
    - 'geometric': prod_i p_i^w_i.

    The first is the logarithmic opinion pool (Genest and Zidek, 1986) of an object being right or
    wrong; the second leaves out that it is wrong. The scores of the parts need not be probabilities
    of that; a calibration to several features weighs them by what is right.

    Features: those of all scorers, and the score of each by its name (``likelihood``,
    ``discrimination``).

    Args:
        scorers: Configs of at least two scorers of different types, without calibrations.
        weights: One for each, none negative; None for equal ones.
        mean: 'logit' or 'geometric'.
        calibration: See :class:`BoxScorer`.

    Raises:
        ValueError: An argument is not as described, or see :meth:`.Calibration.read`.
    """

    name = 'combined'

    def __init__(self, scorers: Sequence[dict], weights: Sequence[float] | None = None,
                 mean: str = 'logit', calibration: str | None = None) -> None:
        if mean not in MEANS:
            raise ValueError(f'`mean` should be one of {MEANS}, but got {mean!r}')
        if len(scorers) < 2:
            raise ValueError(f'`scorers` should be at least two of different types, but got '
                             f'{len(scorers)}')
        weights = [1.0] * len(scorers) if weights is None else list(weights)
        if len(weights) != len(scorers) or not all(
                0 <= weight < math.inf for weight in weights) or not any(weights):
            raise ValueError(f'`weights` should be one finite number for each of the '
                             f'{len(scorers)} scorers, none negative and not all 0, but got '
                             f'{weights}')
        super().__init__(calibration)
        self.scorers = [build_scorer(config, f'scorers.{number}')
                        for number, config in enumerate(scorers)]
        names = [scorer.name for scorer in self.scorers]
        if len({*names}) < len(names):
            raise ValueError(f'`scorers` should be of different types, but got {names}')
        if any(scorer.calibration for scorer in self.scorers):
            raise ValueError('`scorers` should have no calibrations of their own; fit one to the '
                             'features of all and set `calibration` of CombinedScorer')
        self.weights, self.mean = weights, mean
        self.needs_policy = any(scorer.needs_policy for scorer in self.scorers)
        self.feature_names = (*names, *(name for scorer in self.scorers
                                        for name in scorer.feature_names))
        self.check_calibration()

    def options(self) -> dict[str, Any]:
        return dict(type='CombinedScorer', mean=self.mean, weights=self.weights,
                    scorers=[scorer.options() for scorer in self.scorers])

    def prepare(self, policy: Any) -> None:
        for scorer in self.scorers:
            scorer.prepare(policy)

    def score(self, answers: Sequence[GivenAnswer], policy: Any) -> list[ScoredObjects]:
        """See :class:`BoxScorer`."""
        found = [scorer.score(answers, policy) for scorer in self.scorers]
        return [self._combine(parts) for parts in zip(*found, strict=True)]

    def _combine(self, parts: Sequence[ScoredObjects]) -> ScoredObjects:
        """Combine what the scorers say of one answer."""
        weights = np.array(self.weights) / sum(self.weights)
        scores = np.stack([part.scores for part in parts])
        score = (sigmoid(weights @ log_odds(scores)) if self.mean == 'logit'
                 else np.prod(scores ** weights[:, None], axis=0))
        features = {name: value for part in parts for name, value in part.features.items()}
        features |= {scorer.name: part.features['score']
                     for scorer, part in zip(self.scorers, parts, strict=True)}
        return ScoredObjects(score, dict(features, score=score))
