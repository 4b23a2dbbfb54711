# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import math

import numpy as np
import pytest

from mmdpad.analysis.seeds import seeds_and_scenes_interval, t_interval


def test_t_interval_by_hand():
    # Of 1, 2, 3: s = 1, t(0.975, 2) = 4.302653, half = 4.302653 / sqrt(3) = 2.484138.
    found = t_interval([1.0, math.nan, 2.0, 3.0])
    assert found['n'] == 3 and found['mean'] == 2
    assert found['low'] == pytest.approx(2 - 2.484138) and found['high'] == pytest.approx(4.484138)


def test_one_value_or_none_has_no_interval():
    one, none = t_interval([5.0]), t_interval([math.nan])
    assert (one['mean'], one['n'], none['n']) == (5, 1, 0)
    assert all(math.isnan(value) for value in (one['low'], one['high'], none['mean'], none['low']))


def test_seeds_are_drawn_with_replacement():
    # Two seeds of 0 and 1 in every draw: the mean is 0, 1/2 or 1, a quarter, half and quarter of
    # the time. Where they agree nothing varies, and what no draw has is not known.
    drawn = np.broadcast_to(np.array([[0, 7, np.nan], [1, 7, np.nan]]), (2000, 2, 3))
    found = seeds_and_scenes_interval(drawn)
    assert found[:2].tolist() == [[0, 1], [7, 7]] and np.isnan(found[2]).all()


def test_the_spread_of_a_mean_over_seeds():
    seeds = np.tile(np.arange(10.0)[None, :, None], (2000, 1, 1))
    low, high = seeds_and_scenes_interval(seeds)[0]
    # Standard deviation 2.872 of the ten, over sqrt(10): 1.96 * 0.908 = 1.78 about 4.5.
    assert (low, high) == pytest.approx((4.5 - 1.78, 4.5 + 1.78), abs=0.15)
