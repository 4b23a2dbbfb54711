# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import math

import pytest
import torch

from mmdpad.rl import policy_loss, truncated_importance

LOG2 = math.log(2.)


def test_by_hand():
    # trainer / engine: 2, 1/2, 8, cut at 3
    weights = truncated_importance(torch.tensor([[LOG2, -LOG2, 3 * LOG2]]), torch.zeros(1, 3), 3.)
    torch.testing.assert_close(weights, torch.tensor([[2., .5, 3.]]))


def test_the_weights_are_constants_of_the_loss_and_the_log_tells_the_mismatch():
    logp = torch.tensor([[0., -1., 9.]], dtype=torch.float64, requires_grad=True)
    # exp(old - sampling) = 8 (cut to 3) and 1/2; the last token is padding
    sampling = logp.detach() - torch.tensor([[3 * LOG2, -LOG2, -math.inf]], dtype=torch.float64)
    given = dict(advantages=torch.ones(1), mask=torch.tensor([[1, 1, 0]]), sampling_logp=sampling)
    loss, scalars = policy_loss(logp, logp.detach(), importance_cap=3., **given)
    loss.backward()
    torch.testing.assert_close(logp.grad, torch.tensor([[-1.5, -.25, 0.]], dtype=torch.float64))
    assert loss.item() == pytest.approx(-1.75)
    # k3 = r - 1 - log r of r = 8 and 1/2
    assert scalars['mismatch/kl'].item() == pytest.approx((7 - 3 * LOG2 - .5 + LOG2) / 2)
    assert scalars['mismatch/max_ratio'].item() == pytest.approx(8.)
    assert scalars['mismatch/clipped'] == .5
    uncorrected, scalars = policy_loss(logp, logp.detach(), **given)
    assert uncorrected.item() == pytest.approx(-1.)
    assert 'mismatch/kl' in scalars and 'mismatch/clipped' not in scalars


@pytest.mark.parametrize('cap, unbiased', [(10., True), (None, False)])
def test_the_expected_gradient_is_that_of_samples_of_the_model_itself(cap, unbiased):
    """All outcomes of one token, each with its probability under a distorted engine."""
    logits = torch.tensor([.3, -.2, .9, 0.], dtype=torch.float64, requires_grad=True)
    engine = (logits.detach() + torch.tensor([.5, -1., .2, 0.])).log_softmax(0)
    rewards = torch.tensor([1., -.5, .25, 2.], dtype=torch.float64)

    def expected_gradient(sampler, **switches):
        logp = logits.log_softmax(0)[:, None]
        loss = sum(sampler.exp()[i] * policy_loss(
            logp[i:i + 1], logp[i:i + 1].detach(), rewards[i:i + 1], torch.ones(1, 1),
            sampling_logp=sampler[i].view(1, 1), **switches)[0] for i in range(4))
        return torch.autograd.grad(loss, logits)[0]

    wanted = expected_gradient(logits.detach().log_softmax(0))
    got = expected_gradient(engine, importance_cap=cap)
    assert torch.allclose(got, wanted, rtol=1e-12, atol=1e-14) == unbiased


def test_a_cap_without_log_probs_or_below_one_is_an_error():
    x = torch.zeros(1, 1)
    with pytest.raises(ValueError, match='sampling_logp'):
        policy_loss(x, x, torch.ones(1), x + 1, importance_cap=2.)
    with pytest.raises(ValueError, match='importance_cap'):
        policy_loss(x, x, torch.ones(1), x + 1, sampling_logp=x, importance_cap=.5)
