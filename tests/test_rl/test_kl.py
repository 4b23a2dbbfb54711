# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import math

import pytest
import torch

from mmdpad.rl import KL_ESTIMATORS, approximate_kl


@pytest.mark.parametrize('estimator, expected', [
    ('k1', [0., -1., 100.]), ('k2', [0., .5, 5000.]), ('k3', [0., math.e - 2, 10.]),
    ('k3_unbiased', [0., math.e - 2, 10.])])
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


def _gradient(kl, variable):
    return torch.autograd.grad(kl.sum(), variable)[0]


def test_the_unbiased_estimate_is_trls():
    """`use_bias_correction_kl` of trl/trainer/grpo_trainer.py, commit f2cd577, written out: value
    and gradient."""
    torch.manual_seed(0)
    logp, old, ref = (torch.randn(3, 4, 5, dtype=torch.float64) / 2 - 2).requires_grad_()
    trl = ((ref - logp).exp() - (ref - logp) - 1) * (logp - old).exp()
    found = approximate_kl(logp, ref, 'k3_unbiased', old)
    torch.testing.assert_close(found, trl)
    torch.testing.assert_close(_gradient(found, logp), _gradient(trl, logp))


def test_only_the_unbiased_estimate_has_the_gradient_of_the_divergence():
    """Expected over the three tokens that the old policy can write."""
    logits = torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64).log()
    reference = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64).log()
    logp = logits.log_softmax(0)
    truth = _gradient(logp.exp() * (logp - reference), logits)
    for estimator in KL_ESTIMATORS:
        logp = logits.log_softmax(0)
        kl = approximate_kl(logp, reference, estimator, old)
        close = torch.allclose(_gradient(old.exp() * kl, logits), truth)
        assert close == (estimator == 'k3_unbiased'), estimator


def test_the_gradient_of_the_unbiased_estimate_holds_where_its_value_is_clamped():
    logp = torch.tensor([-101., -1.], requires_grad=True)  # d = -100 and 100
    kl = approximate_kl(logp, torch.tensor([-1., -101.]), 'k3_unbiased')
    assert kl.tolist() == [10., 10.]
    assert _gradient(kl, logp).tolist() == [-100., 100.]


def test_k3_does_not_pull_back_tokens_far_below_the_reference():
    logp = -torch.tensor([13., 14.]).log()  # 1 / 13 and 1 / 14 of the reference's probability
    for estimator, expected in (('k3', [-12., 0.]), ('k2', logp.tolist()),
                                ('k3_unbiased', logp.tolist())):
        found = logp.clone().requires_grad_()
        gradient = _gradient(approximate_kl(found, torch.zeros(2), estimator), found)
        assert gradient.tolist() == pytest.approx(expected, abs=1e-4), estimator


def test_unknown_estimator():
    with pytest.raises(ValueError, match='kl_estimator'):
        approximate_kl(torch.zeros(1), torch.zeros(1), 'abs')
