# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How much a number depends on the choice of samples: the percentile bootstrap."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

LEVEL, RESAMPLES, SEED = 0.95, 2000, 0
_COUNTS_AT_ONCE = 4_000_000


def bootstrap_ratios(numerators: np.ndarray, denominators: np.ndarray,
                     resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Ratios of sums over resampled samples: sum_i w_i a_i / sum_i w_i b_i.

    N samples are drawn from N with replacement (Efron, 1979); w_i says how often sample i was
    drawn. A mean has b_i = 1, a mean over a part of the samples b_i = 1 there and a_i = b_i = 0
    elsewhere. All K numbers are computed from one draw, which depends only on N and the seed: two
    results about the same samples, in the same order, are resampled in pairs.

    Args:
        numerators, denominators: a and b, float (K, N), N >= 1.
        resamples: Number of draws, R.
        seed: Of NumPy's default generator.

    Returns:
        (R, K) float64; NaN where a draw's denominators add up to 0.

    Raises:
        ValueError: The shapes are different, or there is no sample.
    """
    if numerators.ndim != 2 or numerators.shape != denominators.shape or not numerators.shape[1]:
        raise ValueError(f'`numerators` and `denominators` should both be (K, N) with N >= 1, but '
                         f'got {numerators.shape} and {denominators.shape}')
    number = numerators.shape[1]
    columns = np.concatenate([numerators, denominators]).astype(np.float64).T
    sums = np.concatenate([counts @ columns for counts in draw_counts(number, resamples, seed)])
    above, below = np.split(sums, 2, axis=1)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def draw_counts(number: int, resamples: int = RESAMPLES, seed: int = SEED) -> Iterator[np.ndarray]:
    """Yield float64 (r, N) for all R draws, a few at a time: how often each sample was drawn. The
    arguments are those of :func:`bootstrap_ratios`."""
    rng = np.random.default_rng(seed)
    block = max(1, _COUNTS_AT_ONCE // number)
    for start in range(0, resamples, block):
        draws = min(block, resamples - start)
        drawn = rng.integers(number, size=(draws, number)) + np.arange(draws)[:, None] * number
        yield np.bincount(drawn.ravel(), minlength=draws * number).reshape(
            draws, number).astype(np.float64)


def percentile_interval(values: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """The middle ``level`` of each column of (R, K) values: (K, 2), low and high.

    NaN values are left out; a column of nothing but NaN gives NaN. A property that no sample has
    varies in no draw: its interval has zero width, which understates the uncertainty.
    """
    tail = (1 - level) / 2
    known = [column[~np.isnan(column)] for column in values.T]
    return np.array([np.quantile(column, [tail, 1 - tail]) if column.size else [np.nan] * 2
                     for column in known])
