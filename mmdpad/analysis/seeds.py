# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Uncertainty due to random seeds of numbers averaged over runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from mmdpad.evaluation.bootstrap import LEVEL, SEED, percentile_interval


def t_interval(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """``mean`` of the values that are not NaN, their number (``n``), and ``low`` and ``high``,
    the interval of Student's t with n - 1 degrees of freedom. The interval is NaN for one value;
    without any value, so is the mean."""
    known = np.array([value for value in values if not math.isnan(value)], float)
    n = len(known)
    mean = float(known.mean()) if n else math.nan
    half = (float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * known.std(ddof=1) / math.sqrt(n))
            if n > 1 else math.nan)
    return dict(mean=mean, low=mean - half, high=mean + half, n=n)


def format_number(value: float, sign: str = '', digits: int = 1) -> str:
    """A number in so many digits, never -0.0; with the sign '+', always with a sign."""
    return f'{round(value, digits) + 0.0:{sign}.{digits}f}'


def format_interval(found: Mapping[str, float], kind: str = '', sign: str = '',
                    digits: int = 1) -> str:
    """' [low, high]' of the entries ``low`` and ``high``, whose names begin with ``kind``; empty if
    there are none."""
    low, high = (found.get(f'{kind}{end}', math.nan) for end in ('low', 'high'))
    return '' if math.isnan(low) else (f' [{format_number(low, sign, digits)}, '
                                       f'{format_number(high, sign, digits)}]')


def seeds_and_scenes_interval(drawn: np.ndarray) -> np.ndarray:
    """The percentile interval of means over seeds: each draw resamples S of the S seeds with
    replacement.

    With few seeds its contribution is too narrow, by about sqrt((S - 1) / S).

    Args:
        drawn: (R, S, K) float, each seed's K numbers over the scenes of each of R draws; all seeds
            of a draw use the same scenes.

    Returns:
        (K, 2) low and high; NaN for a number without any draw.
    """
    draws, number, _ = drawn.shape
    # Not the random stream of `bootstrap_ratios`, which has drawn the scenes.
    seeds = np.random.default_rng([SEED, number]).integers(number, size=(draws, number))
    return percentile_interval(np.take_along_axis(drawn, seeds[..., None], axis=1).mean(axis=1))
