# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Risk-coverage curves, by hand."""
import numpy as np
import pytest

from mmdpad.evaluation.risk_coverage import (
    area_difference,
    area_interval,
    area_under_curve,
    best_area,
    risk_coverage_curve,
)

RISKS = np.array([0., 1, 1, 0])


@pytest.mark.parametrize('confidences, area', [
    ([4, 2, 1, 3], (0 + 0 + 1 / 3 + 1 / 2) / 4),  # the best order
    ([1, 3, 4, 2], (1 + 1 + 2 / 3 + 1 / 2) / 4),  # the worst
    ([5, 5, 5, 5], 1 / 2),  # no order: the mean risk
    ([9, 9, -np.inf, -np.inf], (1 / 2 + 1 / 2 + 1 / 2 + 1 / 2) / 4),
    ([3, 3, 2, 1], (1 / 2 + 1 / 2 + 2 / 3 + 1 / 2) / 4)])
def test_area(confidences, area):
    assert area_under_curve(np.array(confidences, float), RISKS) == pytest.approx(area)


def test_no_order_is_better_than_the_best():
    assert best_area(RISKS) == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)


def test_curve():
    found = risk_coverage_curve(np.array([3., 3, -np.inf, 1]), RISKS)
    assert found == [dict(coverage=.5, risk=.5, threshold=3.0),
                     dict(coverage=.75, risk=pytest.approx(1 / 3), threshold=1.0),
                     dict(coverage=1.0, risk=.5, threshold=None)]


def test_a_long_curve_has_fifty_points():
    confidences = np.random.default_rng(0).random(1000)
    found = risk_coverage_curve(confidences, 1 - confidences)
    assert len(found) == 50 and found[0]['coverage'] == .02 and found[-1]['coverage'] == 1
    risks = [point['risk'] for point in found]
    assert risks == sorted(risks), 'the confidence is right'
    kept = confidences >= found[9]['threshold']
    assert kept.mean() == .2 and found[9]['risk'] == pytest.approx(1 - confidences[kept].mean())


def test_interval():
    """Without a risk that varies there is no uncertainty; and it is of areas of resampled data."""
    assert area_interval(np.arange(5.), np.full(5, .25)) == [.25, .25]
    rng = np.random.default_rng(1)
    confidences, risks = rng.random((2, 200))
    low, high = area_interval(confidences, risks)
    assert low < area_under_curve(confidences, risks) < high
    areas = [area_under_curve(confidences[drawn], risks[drawn])
             for drawn in rng.integers(200, size=(500, 200))]
    assert np.quantile(areas, [.025, .975]) == pytest.approx([low, high], abs=.02)


def test_a_difference_is_paired():
    """Equal orders never differ, whatever is drawn; the interval is narrower than without pairs."""
    rng = np.random.default_rng(2)
    confidences, risks = rng.random((2, 200))
    assert area_difference(confidences, 2 * confidences, risks) == [0, 0, 0]
    others = confidences + rng.normal(0, .05, 200)
    value, low, high = area_difference(confidences, others, risks)
    assert low < value < high
    assert value == area_under_curve(confidences, risks) - area_under_curve(others, risks)
    areas = [area_interval(own, risks) for own in (confidences, others)]
    assert high - low < min(end - start for start, end in areas)
    assert area_difference(others, confidences, risks) == pytest.approx([-value, -high, -low])
    assert area_difference(-risks, confidences, risks)[2] < 0, 'the best order is shown to be it'
