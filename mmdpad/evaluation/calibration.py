# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Are scores the probabilities that boxes are right? Measures it, and fits what makes them so.

Notation: n boxes with scores (n,) in [0, 1] and right (n,) bool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmdpad.utils.log_odds import sigmoid

from .bootstrap import bootstrap_ratios, percentile_interval

BINS = 10
EQUAL = ('mass', 'width')


def find_bins(scores: np.ndarray, bins: int = BINS, equal: str = 'mass') -> np.ndarray:
    """The bin of each box, 0 to ``bins`` - 1.

    Args:
        scores: (n,).
        bins: Number of bins.
        equal: 'mass': bins between quantiles, with equally many boxes each as far as possible;
            boxes of equal scores share one, so some bins may be empty. 'width': [0, 1/bins), ...,
            [1 - 1/bins, 1].

    Returns:
        (n,) long.

    Raises:
        ValueError: ``equal`` is unknown, or ``bins`` is below 1.
    """
    if equal not in EQUAL or bins < 1:
        raise ValueError(f'`equal` should be one of {EQUAL} and `bins` at least 1, but got '
                         f'{equal!r} and {bins}')
    inner = np.arange(1, bins) / bins
    edges = np.quantile(scores, inner) if equal == 'mass' and len(scores) else inner
    return np.searchsorted(edges, scores, side='right')


def reliability_curve(scores: np.ndarray, right: np.ndarray, bins: int = BINS,
                      equal: str = 'mass') -> list[dict[str, float]]:
    """For each bin with boxes: ``low`` and ``high``, their lowest and highest score; ``n``;
    ``score``, their mean score; and ``right``, the share that is right. See :func:`find_bins`."""
    places = find_bins(scores, bins, equal)
    return [dict(low=float(own.min()), high=float(own.max()), n=len(own), score=float(own.mean()),
                 right=float(right[places == place].mean()))
            for place in np.unique(places) for own in [scores[places == place]]]


def expected_calibration_error(scores: np.ndarray, right: np.ndarray, bins: int = BINS,
                               equal: str = 'mass') -> float:
    """ECE (Naeini et al., 2015): sum_b n_b / n abs(mean score - share right) over the bins of
    :func:`find_bins`; in [0, 1], NaN without boxes.

    It is biased upwards where bins have few boxes (Nixon et al., 2019, prefer equal mass).
    """
    if not len(scores):
        return np.nan
    gaps = np.bincount(find_bins(scores, bins, equal), scores - right)
    return float(np.abs(gaps).sum() / len(scores))


def brier_score(scores: np.ndarray, right: np.ndarray) -> float:
    """The mean of (score - right)^2 (Brier, 1950); in [0, 1], NaN without boxes."""
    return float(np.mean((scores - right)**2)) if len(scores) else np.nan


def calibration_error_interval(scores: np.ndarray, right: np.ndarray, images: np.ndarray,
                               number: int, equal: str = 'mass') -> list[float]:
    """The bootstrap interval over images of :func:`expected_calibration_error`, with the bins of
    all boxes.

    Args:
        scores, right: (n,), n >= 1.
        images: (n,) long, the image of each box.
        number: Number of images, also of those without boxes.
        equal: See :func:`find_bins`.

    Returns:
        [low, high].
    """
    gaps = sum_gaps(scores, right, images, number, equal)
    counts = np.bincount(images, minlength=number).astype(float)
    draws = np.abs(bootstrap_ratios(gaps, np.tile(counts, (BINS, 1)))).sum(axis=1)
    return percentile_interval(draws[:, None])[0].tolist()


def sum_gaps(scores: np.ndarray, right: np.ndarray, images: np.ndarray, number: int,
             equal: str = 'mass') -> np.ndarray:
    """The sums of score - right over the boxes of each bin and image, float64 (:data:`BINS`,
    ``number``). The arguments are those of :func:`calibration_error_interval`."""
    gaps = np.zeros((BINS, number))
    np.add.at(gaps, (find_bins(scores, equal=equal), images), scores - right)
    return gaps


def fit_platt(inputs: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Fit sigmoid(weights . x + bias) by maximum likelihood, with Platt's targets (Platt, 1999):
    (r + 1) / (r + 2) for the r right boxes and 1 / (w + 2) for the w wrong ones, so that weights
    stay finite where a feature separates them.

    Args:
        inputs: float (K, n), K features; equal values of a feature get the weight 0.
        right: (n,) bool, some True and some False.

    Returns:
        ``weights`` (K floats) and ``bias``.
    """
    from scipy.optimize import minimize  # not at the top: the import takes 0.2 s
    center, scale = inputs.mean(axis=1), inputs.std(axis=1)
    scale[scale == 0] = 1.0
    x = np.concatenate([(inputs - center[:, None]) / scale[:, None], np.ones((1, len(right)))])
    number = int(right.sum())
    target = np.where(right, (number + 1) / (number + 2), 1 / (len(right) - number + 2))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logits = parameters @ x
        value = np.logaddexp(0, logits) - target * logits
        return value.mean(), x @ (sigmoid(logits) - target) / len(target)

    found = minimize(loss, np.zeros(len(x)), jac=True, method='BFGS', options=dict(gtol=1e-9)).x
    weights = found[:-1] / scale
    return dict(weights=weights.tolist(), bias=float(found[-1] - weights @ center))


def fit_isotonic(inputs: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Fit the rising step function with the least squared error, by pool-adjacent-violators; see
    :class:`mmdpad.models.scorers.Calibration` for what is between its steps.

    Args:
        inputs: float (1, n), a single feature. Boxes of equal values are averaged first.
        right: (n,) bool.

    Returns:
        ``x`` and ``y``, the first and last point of each step.

    Raises:
        ValueError: There are several features.
    """
    if len(inputs) != 1:
        raise ValueError(f'`features` should be a single one for isotonic regression, but got '
                         f"{len(inputs)}; use the method 'platt' for several")
    from scipy.optimize import isotonic_regression
    x, places = np.unique(inputs[0], return_inverse=True)
    counts = np.bincount(places).astype(float)
    y = isotonic_regression(np.bincount(places, right) / counts, weights=counts).x.clip(0, 1)
    inner = np.diff(y) == 0
    ends = ~(np.append(inner, False) & np.append(False, inner))
    return dict(x=x[ends].tolist(), y=y[ends].tolist())


FITS = dict(platt=fit_platt, isotonic=fit_isotonic)
"""The methods of calibration by name."""


def boxes_of(rows: Sequence[dict[str, Any]]
             ) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """The boxes in the lines of a :class:`DetectionMetric`, without those that are neither right
    nor wrong.

    Returns:
        ``right`` (n,) bool; the columns by name, float64 (n,): the features, with NaN where one is
        unknown, and ``scores``; and the number of the row of each box, (n,).
    """
    kept = [(number, place) for number, row in enumerate(rows)
            for place, right in enumerate(row['box_right']) if right is not None]
    names = sorted({name for row in rows for name in row['features']})
    columns = {name: np.array([
        np.nan if (value := rows[number]['features'][name][place]) is None else value
        for number, place in kept], np.float64) for name in names}
    columns['scores'] = np.array([rows[number]['scores'][place] for number, place in kept],
                                 np.float64)
    return (np.array([rows[number]['box_right'][place] for number, place in kept], bool), columns,
            np.array([number for number, _ in kept], np.int64))
