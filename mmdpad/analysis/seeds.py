# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How far a number could be off by the seeds of the runs that it is a mean of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from mmdpad.evaluation.bootstrap import LEVEL, SEED, percentile_interval


def t_interval(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """``mean`` of the values that are not NaN, how many these are (``n``), and ``low`` and
    ``high``, the interval of Student's t with n - 1 degrees of freedom; NaN for one value, without
    any the mean, too."""
    known = np.array([value for value in values if not math.isnan(value)], float)
    n = len(known)
    mean = float(known.mean()) if n else math.nan
    half = (float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * known.std(ddof=1) / math.sqrt(n))
            if n > 1 else math.nan)
    return dict(mean=mean, low=mean - half, high=mean + half, n=n)


def seeds_and_scenes_interval(drawn: np.ndarray) -> np.ndarray:
    """The percentile interval of means over seeds: in each draw, S of the S seeds are drawn with
    replacement.

    Of few seeds it is too narrow by about sqrt((S - 1) / S) in what it says of them.

    Args:
        drawn: (R, S, K) float, each seed's K numbers over the scenes of each of R draws, which
            are the same scenes for all seeds of a draw.

    Returns:
        (K, 2) low and high; NaN for a number that no draw has.
    """
    draws, number, _ = drawn.shape
    # A stream of its own: that of `bootstrap_ratios` has drawn the scenes.
    seeds = np.random.default_rng([SEED, number]).integers(number, size=(draws, number))
    return percentile_interval(np.take_along_axis(drawn, seeds[..., None], axis=1).mean(axis=1))
