# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import math

import pytest
import torch

from mmdpad.rl import effective_sample_sizes, importance_weights, policy_loss
from mmdpad.structures import LossScale

LOG2 = math.log(2.)


@pytest.mark.parametrize('options, expected', [
    # trainer / engine: 2, 1/2, 8 of one response, 2, 1/4 and padding of another; cut at 3
    (dict(), [[2., .5, 3.], [2., .25]]),
    (dict(mode='mask'), [[2., .5, 0.], [2., .25]]),
    (dict(mode='mask', floor=.4), [[2., .5, 0.], [2., 0.]]),
    (dict(level='sequence'), [[3.] * 3, [.5] * 2]),  # products 8 and 1/2
    (dict(level='sequence', mode='mask'), [[0.] * 3, [.5] * 2]),
    (dict(level='sequence', mode='mask', floor=.6), [[0.] * 3, [0.] * 2])])
def test_by_hand(options, expected):
    logp = LOG2 * torch.tensor([[1., -1., 3.], [1., -2., math.inf]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    weights = importance_weights(logp, torch.zeros(2, 3), mask, 3., **options)
    torch.testing.assert_close(weights[0], torch.tensor(expected[0]))
    torch.testing.assert_close(weights[1, :2], torch.tensor(expected[1]))


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


def test_a_ratio_that_is_rounded_to_zero_is_masked_by_a_floor():
    """exp(-120) is 0 in float32."""
    old, given = torch.tensor([[-120., 0.]]), dict(importance_cap=3., importance_mode='mask')
    shares = [policy_loss(old, old, torch.ones(1), torch.ones(1, 2), **given,
                          sampling_logp=torch.zeros(1, 2), importance_floor=floor)[1]
              ['mismatch/clipped'].item() for floor in (.5, 0.)]
    assert shares == [.5, 0.]


@pytest.mark.parametrize('level, unbiased', [('sequence', True), ('token', False)])
def test_the_expected_gradient_of_whole_responses(level, unbiased):
    """All responses of two tokens, each with its probability under a distorted engine: the second
    token's reward depends on the first."""
    logits = torch.tensor([[.3, -.2], [.9, 0.]], dtype=torch.float64, requires_grad=True)
    engine = (logits.detach() + torch.tensor([[.5, -1.], [.2, .4]])).log_softmax(1)
    rewards = torch.tensor([[1., -.5], [.25, 2.]], dtype=torch.float64)

    def expected_gradient(sampler, **switches):
        logp, loss = logits.log_softmax(1), 0
        for i in range(2):
            for j in range(2):
                own, its = (torch.stack([of[0, i], of[1, j]])[None] for of in (logp, sampler))
                loss = loss + its.sum().exp() * policy_loss(
                    own, own.detach(), rewards[i, j][None], torch.ones(1, 2), sampling_logp=its,
                    **switches)[0]
        return torch.autograd.grad(loss, logits)[0]

    wanted = expected_gradient(logits.detach().log_softmax(1))
    got = expected_gradient(engine, importance_cap=100., importance_level=level)
    assert torch.allclose(got, wanted, rtol=1e-12, atol=1e-14) == unbiased


def test_the_effective_sample_size_is_that_of_all_micro_batches():
    """Weights of tokens: 2, 1/2 and 3 of one response, 2 and 1/4 of another; of responses: 3 and
    1/2."""
    old = LOG2 * torch.tensor([[1., -1., 3.], [1., -2., 0.]], dtype=torch.float64)
    mask = torch.tensor([[True] * 3, [True, True, False]])
    scale = LossScale.of(mask, parts=2)
    logs = [policy_loss(old[n:n + 1], old[n:n + 1], torch.ones(1), mask[n:n + 1],
                        sampling_logp=torch.zeros(1, 3), importance_cap=3., scale=scale)[1]
            for n in range(2)]
    mean = {name: (logs[0][name] + logs[1][name]).item() / 2 for name in logs[0]}
    found = effective_sample_sizes(mean)
    assert not [name for name in found if name.startswith('importance/')]
    assert found['ess/tokens'] == pytest.approx(7.75**2 / (5 * (4 + .25 + 9 + 4 + .0625)))
    assert found['ess/sequences'] == pytest.approx(3.5**2 / (2 * 9.25))
    assert effective_sample_sizes({'importance/tokens': 0., 'importance/tokens_squared': 0.}) == {
        'ess/tokens': 0.}
    assert effective_sample_sizes({'reward': 1.}) == {'reward': 1.}


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


def test_a_cap_without_log_probs_is_an_error():
    x = torch.zeros(1, 1)
    with pytest.raises(ValueError, match='sampling_logp'):
        policy_loss(x, x, torch.ones(1), x + 1, importance_cap=2.)


@pytest.mark.parametrize('options, message', [
    (dict(cap=.5), '`importance_cap` should be None or at least 1'),
    (dict(cap=2., level='group'), '`importance_level` should be one of'),
    (dict(cap=2., mode='clip'), '`importance_mode` should be one of'),
    (dict(cap=2., mode='mask', floor=1.5), r'`importance_floor` should be in \[0, 1\]'),
    (dict(cap=2., floor=.5), "unless `importance_mode` is 'mask'"),
    (dict(level='sequence'), '`importance_cap` should be set with'),
    (dict(mode='mask'), '`importance_cap` should be set with')])
def test_options_that_are_wrong_or_have_no_effect_are_refused(options, message):
    x = torch.zeros(1, 1)
    with pytest.raises(ValueError, match=message):
        policy_loss(x, x, torch.ones(1), x + 1, sampling_logp=x,
                    **{f'importance_{name}': value for name, value in options.items()})


def test_bad_responses_that_drifted_away_are_left_out():
    """`get_off_policy_mask` of trl/trainer/grpo_trainer.py, commit f2cd577, which cites
    DeepSeek-V3.2: a mean of sampling_logp - logp over tokens of 3/2, 1/2 and 4 nats."""
    logp = torch.tensor([[-2., -3., 9.], [-1., -1., -1.], [-5., -9., -9.]], requires_grad=True)
    sampling = torch.tensor([[-1., -1., math.inf], [-.5, -.5, -.5], [-1., -9., -9.]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
    switches = dict(off_policy_mask_threshold=1.0, sampling_logp=sampling)
    losses, masked = [], []
    for signs in ([-1., -1., -1.], [1., -1., 1.], [0., 1., -1.]):
        loss, scalars = policy_loss(logp, logp.detach(), torch.tensor(signs), mask, **switches)
        losses.append(torch.autograd.grad(loss, logp)[0][:, 0].tolist())
        masked.append(scalars['off_policy_masked'].item())
    # A gradient of -A / (3 responses * tokens) each
    assert losses == [[0., pytest.approx(1 / 9), 0.],
                      [pytest.approx(-1 / 6), pytest.approx(1 / 9), pytest.approx(-1 / 3)],
                      [0., pytest.approx(-1 / 9), 0.]]
    assert masked == pytest.approx([2 / 3, 0., 1 / 3])


def test_without_recorded_log_probabilities_the_old_policy_is_the_one_that_sampled():
    given = dict(old_logp=torch.full((1, 2), 1.5), advantages=-torch.ones(1),
                 mask=torch.ones(1, 2))
    for threshold, masked in ((1.5, 0.), (1.4, 1.)):
        _, scalars = policy_loss(torch.zeros(1, 2), off_policy_mask_threshold=threshold, **given)
        assert scalars['off_policy_masked'] == masked


def test_the_weights_multiply_the_unbiased_kl_only():
    logp, old = torch.tensor([[-1.]]), torch.tensor([[-1.]])
    given = dict(advantages=torch.zeros(1), mask=torch.ones(1, 1), ref_logp=torch.tensor([[-2.]]),
                 sampling_logp=old - LOG2, importance_cap=4.0, kl_coef=1.0)
    k3 = math.exp(-1)  # d = 1
    for estimator, expected in (('k3', k3), ('k3_unbiased', 2 * k3)):
        loss, _ = policy_loss(logp, old, kl_estimator=estimator, **given)
        assert loss.item() == pytest.approx(expected)
