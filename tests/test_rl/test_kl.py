# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import math

import pytest
import torch

from mmdpad.rl import approximate_kl


@pytest.mark.parametrize('estimator, expected', [
    ('k1', [0., -1., 100.]), ('k2', [0., .5, 5000.]), ('k3', [0., math.e - 2, 10.])])
def test_by_hand(estimator, expected):
    kl = approximate_kl(torch.tensor([0., 0., 0.]), torch.tensor([0., 1., -100.]), estimator)
    assert kl.tolist() == pytest.approx(expected)


def test_each_estimates_the_same_divergence():
    """k1 and k3 are unbiased; k2 agrees for policies that are close."""
    policy = torch.tensor([.5, .3, .2], dtype=torch.float64)
    reference = torch.tensor([.45, .33, .22], dtype=torch.float64)
    truth = (policy * (policy / reference).log()).sum()
    for estimator, close in (('k1', 1e-9), ('k3', 1e-9), ('k2', 1e-3)):
        kl = (policy * approximate_kl(policy.log(), reference.log(), estimator)).sum()
        assert kl.item() == pytest.approx(truth.item(), rel=close, abs=close)


@pytest.mark.parametrize('sign', [1, -1])
def test_k3_of_close_policies_is_right_and_never_negative(sign):
    # In float32 exp(d) - d - 1 is off by up to 6e-8, whatever d: below 0 for one d in ten.
    d = sign * torch.logspace(-9, 0, 20001)
    kl, truth = approximate_kl(d, torch.zeros_like(d)), torch.expm1(-d.double()) + d.double()
    assert (kl >= 0).all()
    assert ((kl - truth).abs() <= 2e-7 * d.abs()).all()


def test_unknown_estimator():
    with pytest.raises(ValueError, match='kl_estimator'):
        approximate_kl(torch.zeros(1), torch.zeros(1), 'abs')
