# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from mmdpad.evaluation import bootstrap as module
from mmdpad.evaluation.bootstrap import bootstrap_ratios, percentile_interval


def test_resamples_are_draws_with_replacement():
    """Of two samples a draw takes none, one or both twice: means 1, 2, 3 in shares 1:2:1."""
    values, counts = np.unique(bootstrap_ratios(np.array([[1., 3.]]), np.ones((1, 2)), 20000),
                               return_counts=True)
    assert values.tolist() == [1, 2, 3]
    assert counts / 20000 == pytest.approx([0.25, 0.5, 0.25], abs=0.015)


def test_ratios_of_one_draw_are_paired(monkeypatch):
    a = np.random.default_rng(1).random(50)
    ones = np.ones_like(a)
    both = bootstrap_ratios(np.stack([a, a + 1]), np.stack([ones, ones]))
    np.testing.assert_allclose(both[:, 1] - both[:, 0], 1)
    np.testing.assert_array_equal(both[:, :1], bootstrap_ratios(a[None], ones[None]))
    monkeypatch.setattr(module, '_COUNTS_AT_ONCE', 120)  # two draws at a time
    np.testing.assert_allclose(bootstrap_ratios(a[None], ones[None]), both[:, :1])


def test_a_draw_without_the_part_is_left_out():
    """8 of 27 draws of three miss the only sample that counts: (2/3)^3."""
    ratios = bootstrap_ratios(np.array([[5., 0, 0]]), np.array([[1., 0, 0]]))
    assert np.isnan(ratios).mean() == pytest.approx(8 / 27, abs=0.03)
    assert percentile_interval(ratios).tolist() == [[5, 5]]
    never = percentile_interval(bootstrap_ratios(np.zeros((1, 3)), np.zeros((1, 3))))
    assert np.isnan(never).all()


def test_percentiles_by_hand():
    values = np.arange(101.)[:, None] * [[1, -1]]
    np.testing.assert_allclose(percentile_interval(values, 0.9), [[5, 95], [-95, -5]])


@pytest.mark.parametrize('kind', ['mean', 'ratio'])
def test_intervals_cover_as_often_as_they_say(kind):
    """On synthetic data the interval is that of the normal approximation (the delta method for a
    ratio), and holds the truth in about 95 % of repetitions."""
    rng = np.random.default_rng(3)
    covered, widths, n = [], [], 150
    for _ in range(300):
        b = rng.uniform(1, 3, n) if kind == 'ratio' else np.ones(n)
        a = b * rng.normal(0.6, 0.2, n)
        low, high = percentile_interval(bootstrap_ratios(a[None], b[None], 500))[0]
        covered.append(low <= 0.6 <= high)
        error = np.sqrt(((a - a.sum() / b.sum() * b)**2).sum()) / b.sum()
        widths.append((high - low) / (2 * 1.96 * error))
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)
    assert np.mean(widths) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize('a, b', [((2, 3), (3, 2)), ((3, ), (3, )), ((1, 0), (1, 0))])
def test_shapes_are_checked(a, b):
    with pytest.raises(ValueError, match=r'both be \(K, N\) with N >= 1, but got'):
        bootstrap_ratios(np.zeros(a), np.zeros(b))
