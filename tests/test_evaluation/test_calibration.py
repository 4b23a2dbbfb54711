# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Whether scores are probabilities, and what makes them so."""
import math

import numpy as np
import pytest
import torch

from mmdpad.evaluation.calibration import (
    boxes_of,
    brier_score,
    calibration_error_interval,
    expected_calibration_error,
    find_bins,
    fit_isotonic,
    fit_platt,
    reliability_curve,
)

RNG = np.random.default_rng


def test_by_hand():
    """Two bins of equal mass: {0.1, 0.2} with one right, {0.6, 0.7} with both; of equal width the
    same. Then four, one for each box, or of widths 0.25."""
    scores, right = np.array([0.7, 0.1, 0.6, 0.2]), np.array([True, True, True, False])
    for equal in ('mass', 'width'):
        assert expected_calibration_error(scores, right, 2, equal) == pytest.approx(
            (2 * abs(0.15 - 0.5) + 2 * abs(0.65 - 1)) / 4)
    assert expected_calibration_error(scores, right, 4, 'mass') == pytest.approx(
        (0.3 + 0.9 + 0.4 + 0.2) / 4)
    assert find_bins(scores, 4, 'width').tolist() == [2, 0, 2, 0]
    assert brier_score(scores, right) == pytest.approx((0.09 + 0.81 + 0.16 + 0.04) / 4)
    assert reliability_curve(scores, right, 2) == [
        dict(low=0.1, high=0.2, n=2, score=pytest.approx(0.15), right=0.5),
        dict(low=0.6, high=0.7, n=2, score=pytest.approx(0.65), right=1.0)]


def test_borders_belong_to_the_upper_bin_and_1_to_the_last():
    assert find_bins(np.array([0.0, 0.3, 0.7, 1.0]), equal='width').tolist() == [0, 3, 7, 9]
    assert find_bins(np.arange(10) / 10).tolist() == list(range(10))


@pytest.mark.parametrize('equal', ['mass', 'width'])
def test_boxes_of_equal_scores_share_a_bin(equal):
    """In whatever order they come: otherwise the error would depend on it."""
    scores = np.array([0.4] * 50 + [0.9] * 3)
    right = np.arange(53) % 2 == 0
    order = RNG(0).permutation(53)
    bins = find_bins(scores, equal=equal)
    assert len({*bins[:50]}) == 1
    assert expected_calibration_error(scores[order], right[order], equal=equal) == pytest.approx(
        expected_calibration_error(scores, right, equal=equal))


def test_without_boxes():
    none = np.zeros(0), np.zeros(0, bool)
    assert math.isnan(expected_calibration_error(*none)) and math.isnan(brier_score(*none))
    assert reliability_curve(*none) == []
    with pytest.raises(ValueError, match="`equal` should be one of .* but got 'size' and 10"):
        find_bins(np.zeros(1), equal='size')


def test_intervals_resample_images():
    """Two boxes in each of many images; where all images are alike, nothing varies."""
    scores, right = np.tile([0.8, 0.3], 40), np.tile([True, False], 40)
    images = np.repeat(np.arange(40), 2)
    drawn = RNG(0).random(80)
    for equal in ('mass', 'width'):
        assert expected_calibration_error(scores, right, equal=equal) == pytest.approx(0.25)
        assert calibration_error_interval(scores, right, images, 50, equal) == pytest.approx(
            [0.25, 0.25])
        low, high = calibration_error_interval(drawn, RNG(1).random(80) < drawn, images, 40, equal)
        assert 0 <= low < high <= 1


def test_platt_recovers_what_made_the_data():
    """Against another optimizer (Newton's method in torch), and the truth within its error."""
    n, weights, bias = 20_000, np.array([1.5, -0.02]), -0.7
    x = np.stack([RNG(0).normal(size=n), RNG(1).normal(40, 60, size=n)])
    right = RNG(2).random(n) < 1 / (1 + np.exp(-(weights @ x + bias)))
    found = fit_platt(x, right)
    assert found['weights'] == pytest.approx(weights, rel=0.06)
    assert found['bias'] == pytest.approx(bias, abs=0.08)
    k = right.sum()
    target = torch.from_numpy(np.where(right, (k + 1) / (k + 2), 1 / (n - k + 2)))
    inputs = torch.from_numpy(np.stack([*x, np.ones(n)], 1))

    def loss(w):
        return torch.nn.functional.binary_cross_entropy_with_logits(inputs @ w, target)

    w = torch.zeros(3, dtype=torch.float64)
    for _ in range(30):
        w = w - torch.linalg.solve(torch.autograd.functional.hessian(loss, w),
                                   torch.autograd.functional.jacobian(loss, w))
    assert [*found['weights'], found['bias']] == pytest.approx(w.tolist(), rel=1e-4)


def test_platt_of_separated_and_of_constant_features_is_finite():
    right = np.arange(20) >= 10
    found = fit_platt(np.stack([np.arange(20.0), np.full(20, 3.0)]), right)
    assert 0 < found['weights'][0] < 100 and found['weights'][1] == pytest.approx(0)
    assert np.isfinite(found['bias'])


def test_isotonic_by_hand():
    """The pair (0.2: right, 0.3: wrong) is pooled; equal values are averaged first."""
    x = np.array([[0.9, 0.1, 0.2, 0.3, 0.5, 0.5]])
    found = fit_isotonic(x, np.array([True, False, True, False, True, False]))
    assert found == dict(x=[0.1, 0.2, 0.5, 0.9], y=[0.0, 0.5, 0.5, 1.0])
    several = fit_isotonic(np.array([[0.2, 0.2, 0.2, 0.3]]), np.array([True, True, True, False]))
    assert several == dict(x=[0.2, 0.3], y=[0.75, 0.75])
    with pytest.raises(ValueError, match='a single one for isotonic regression, but got 2'):
        fit_isotonic(np.zeros((2, 3)), np.ones(3, bool))


def test_isotonic_rises_and_has_the_least_error_of_what_rises():
    x = RNG(0).random((1, 300))
    right = RNG(1).random(300) < x[0] ** 2
    found = fit_isotonic(x, right)
    assert (np.diff(found['x']) > 0).all() and (np.diff(found['y']) >= 0).all()
    fitted = np.interp(x[0], found['x'], found['y'])
    error = ((fitted - right) ** 2).sum()
    assert fitted.sum() == pytest.approx(right.sum())  # of each pool, and so of all
    for other in (x[0] ** 2, np.clip(fitted + 0.01, 0, 1), fitted * 0.99, x[0]):
        assert error < ((other - right) ** 2).sum()


def test_boxes_of_rows():
    rows = [dict(box_right=[True, None, False], scores=[0.9, 0.8, 0.7],
                 features=dict(score=[0.5, 0.4, None])),
            dict(box_right=[], scores=[], features={}),
            dict(box_right=[False], scores=[0.1], features=dict(score=[0.2]))]
    right, columns, numbers = boxes_of(rows)
    assert right.tolist() == [True, False, False] and numbers.tolist() == [0, 0, 2]
    assert columns['scores'].tolist() == [0.9, 0.7, 0.1]
    assert np.isnan(columns['score']).tolist() == [False, True, False]
