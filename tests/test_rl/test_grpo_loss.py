# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import math
from dataclasses import replace

import pytest
import torch

from mmdpad.registry import MODELS
from mmdpad.rl import GRPOLoss, LossInputs, PolicyLoss, policy_loss
from mmdpad.structures import LossScale, RolloutBatch

LOGP = torch.tensor([[-1.0, -2.0, -0.5], [-0.3, -0.7, -9.0]])
MASK = torch.tensor([[True, True, True], [True, True, False]])


def rollout(**more):
    return RolloutBatch([0], [0], 2, ['a', 'b'], [None, None], response_ids=MASK.long(),
                        response_mask=MASK, truncated=torch.tensor([True, False]),
                        advantages=torch.tensor([[1.0, -1.0]]), **more)


def inputs(loss, **more):
    batch = rollout(old_logp=LOGP - 0.3, ref_logp=LOGP + 0.2, **more)
    return LossInputs.of(batch, loss.token_mask(batch), LOGP, torch.full((2, 3), 2.0), 100)


def test_grpo_loss_is_the_pure_function_with_its_switches():
    switches = dict(clip_ratio=0.1, clip_ratio_high=0.3, ratio_level='sequence',
                    surrogate='cispo', kl_estimator='k2', aggregation='seq_mean_token_sum_norm')
    loss = GRPOLoss(kl_coef=0.5, entropy_coef=0.1, **switches)
    given = inputs(loss)
    expected, scalars = policy_loss(
        LOGP, LOGP - 0.3, torch.tensor([1.0, -1.0]), MASK, ref_logp=LOGP + 0.2, kl_coef=0.5,
        entropy=given.entropy, entropy_coef=0.1, max_tokens=100, **switches)
    found, logs = loss(given)
    assert torch.equal(found, expected) and logs == scalars
    assert loss.needs_reference and loss.entropy == 'grad' and not loss.penalizes_rewards


def test_what_is_not_needed_is_not_asked_for():
    loss = GRPOLoss(kl_coef=0.0, entropy_coef=0.0)
    assert not loss.needs_reference and loss.entropy == 'no_grad'
    assert not loss.needs_sampling_logp and GRPOLoss(importance_cap=2.0).needs_sampling_logp
    assert GRPOLoss(off_policy_mask_threshold=0.0).needs_sampling_logp
    assert not GRPOLoss(kl_in='reward', kl_coef=0.0).penalizes_rewards


@pytest.mark.parametrize('cap, then', [('auto', 2.0), (5.0, 5.0), (None, None)])
def test_stale_rollouts_are_corrected_unless_turned_off(cap, then):
    loss = GRPOLoss(importance_cap=cap)
    assert loss.switches['importance_cap'] == (None if cap == 'auto' else cap)
    loss.correct_staleness()
    assert loss.switches['importance_cap'] == then
    assert loss.needs_sampling_logp == (then is not None)


def test_kl_in_the_reward_is_taken_off_once():
    loss = GRPOLoss(kl_in='reward', kl_coef=0.5, kl_estimator='k1', entropy_coef=0.0)
    batch = rollout(old_logp=LOGP, ref_logp=LOGP - 0.2)
    # k1 is old - ref = 0.2 a token: 3 tokens and 2
    assert torch.allclose(loss.reward_penalty(batch), torch.tensor([[0.3, 0.2]]))
    total, scalars = loss(inputs(loss))
    assert torch.equal(total, scalars['pg_loss']) and scalars['kl_loss'] < 0


def test_truncated_responses_stay_out_where_asked():
    batch = rollout()
    assert torch.equal(GRPOLoss().token_mask(batch), MASK)
    assert GRPOLoss(mask_truncated=True).token_mask(batch).tolist() == [
        [False] * 3, [True, True, False]]


def test_only_tokens_with_the_highest_entropy_count_in_the_surrogate():
    """As in TRL, all tokens stay in the divisor and in the KL."""
    loss = GRPOLoss(top_entropy_quantile=0.4, entropy_coef=0.0, kl_coef=0.1)
    assert loss.needs_pass_before_update and not GRPOLoss().needs_pass_before_update
    more = dict(old_entropy=torch.tensor([[2.0, 0.1, 3.0], [0.2, 2.5, 9.0]]))
    assert inputs(loss, **more).surrogate_mask is None
    given = inputs(loss, entropy_threshold=2.5, **more)
    assert given.surrogate_mask.tolist() == [[False, False, True], [False, True, True]]
    total, scalars = loss(given)
    # A * min(e^0.3, 1.2) of one of three tokens, and -A * e^0.3 of one of two
    assert scalars['pg_loss'].item() == pytest.approx((-1.2 / 3 + math.exp(0.3) / 2) / 2)
    everything = GRPOLoss(entropy_coef=0.0, kl_coef=0.1)
    assert scalars['kl_loss'] == everything(inputs(everything))[1]['kl_loss']


def test_the_entropy_bonus_adapts():
    loss = GRPOLoss(entropy_coef=0.0, adaptive_entropy=dict(target=3.0, delta=0.01, high=1.0),
                    aggregation='seq_mean_token_sum_norm')
    assert loss.entropy == 'grad'
    total, scalars = loss(inputs(loss))
    assert scalars['entropy_per_token'] == 2.0 and scalars['entropy_coef'] == 0.0
    loss.after_iteration({'entropy_per_token': 2.0})
    found, scalars = loss(inputs(loss))
    # 0.01 times the mean over 2 responses of their sums (3 tokens and 2) over 100
    assert (total - found).item() == pytest.approx(0.01 * 2.0 * 5 / 200)
    resumed = GRPOLoss(adaptive_entropy=dict(target=3.0, delta=0.01, high=1.0))
    resumed.load_state_dict(loss.state_dict())
    assert resumed.entropy_coef == loss.entropy_coef == 0.01
    loss.after_iteration({})  # all steps were skipped
    loss.after_iteration({'entropy_per_token': 3.5})
    assert loss.entropy_coef == 0.0
    fixed = GRPOLoss(entropy_coef=0.5)
    fixed.load_state_dict(loss.state_dict())
    assert fixed.entropy_coef == 0.5 and fixed.state_dict() == {}


@pytest.mark.parametrize('scale', [None, LossScale(0.0, 0.0)])
def test_the_entropy_of_no_tokens_is_unknown(scale):
    """All responses are truncated, and truncated ones do not count."""
    loss = GRPOLoss(adaptive_entropy=dict(target=3.0), mask_truncated=True)
    given = replace(inputs(loss), mask=torch.zeros_like(MASK), scale=scale)
    assert 'entropy_per_token' not in loss(given)[1]
    part = replace(given, scale=LossScale(0.5, 1.0))  # another micro-batch has tokens
    assert loss(part)[1]['entropy_per_token'] == 0


def test_a_rollout_without_old_log_probabilities_is_on_policy():
    batch = rollout()
    found = LossInputs.of(batch, MASK, LOGP, None, 100)
    assert torch.equal(found.old_logp, LOGP) and found.ref_logp is None
    assert found.advantages.tolist() == [1.0, -1.0]


@pytest.mark.parametrize('settings, message', [
    (dict(kl_coef=-1.0), '`kl_coef` should be at least 0'),
    (dict(kl_coef=float('inf')), '`kl_coef` should be at least 0 and finite'),
    (dict(top_entropy_quantile=0.0), r'`top_entropy_quantile` should be in \(0, 1\]'),
    (dict(adaptive_entropy=dict(aim=1)), '`adaptive_entropy` should have keys among'),
    (dict(kl_in='advantage'), "`kl_in` should be 'loss' or 'reward'"),
    (dict(kl_in='reward', kl_estimator='k3_unbiased'), "should not be 'k3_unbiased' with"),
    (dict(surrogate='ppo'), '`surrogate` should be one of'),
    (dict(importance_cap=0.5), '`importance_cap` should be')])
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type='GRPOLoss', **settings))


def test_a_custom_loss_adds_up_over_micro_batches():
    class Reinforce(PolicyLoss):
        def __call__(self, given):
            return given.mean(-given.advantages[:, None] * given.logp), {}

    loss = Reinforce()
    whole = loss(inputs(loss))[0]
    # -(A * mean logp): (3.5 / 3 - 1 / 2) / 2
    assert whole.item() == pytest.approx((3.5 / 3 - 0.5) / 2)
    given, scale = inputs(loss), LossScale.of(MASK, parts=2)
    parts = [LossInputs(given.logp[i:i + 1], given.old_logp[i:i + 1], given.advantages[i:i + 1],
                        MASK[i:i + 1], max_tokens=100, scale=scale) for i in range(2)]
    assert sum(loss(part)[0] for part in parts).item() == pytest.approx(2 * whole.item())


def test_the_base_class_needs_a_call():
    with pytest.raises(NotImplementedError, match='PolicyLoss should implement `__call__`'):
        PolicyLoss()(None)
    with pytest.raises(NotImplementedError, match='`reward_penalty`'):
        PolicyLoss().reward_penalty(None)


@pytest.mark.parametrize('name, logged', [
    ('pg_loss', 'pg'), ('loss_kl', 'kl'), ('one_loss_term', 'one_term'),
    ('part/kl_loss', 'part/kl'), ('distance', 'distance')])
def test_what_is_logged_is_not_minimized(name, logged):
    """mmengine minimizes all entries with 'loss' in their name together."""
    class Named(PolicyLoss):
        def __call__(self, given):
            return given.logp.sum(), {name: 2 * given.logp.sum(), 'count': 3.0}

    logp = LOGP.clone().requires_grad_()
    entries = Named().entries(LossInputs(logp, LOGP, torch.ones(2), MASK))
    assert list(entries) == ['loss', logged, 'count'] and entries['loss'].requires_grad
    assert entries[logged].item() == 2 * LOGP.sum() and not entries[logged].requires_grad


@pytest.mark.parametrize('result, error, message', [
    ((LOGP.sum(), dict(loss=LOGP.sum())), ValueError, "`Wrong` should log .* got 'loss'; rename"),
    ((LOGP.sum(), dict(losses=LOGP.sum())), ValueError, "got 'losses'"),
    (LOGP.sum(), TypeError, '`Wrong.__call__` should return the loss and a dict .* got Tensor; r'),
    ((LOGP.sum(), [LOGP.sum()]), TypeError, 'and a dict')])
def test_a_result_that_cannot_be_used_is_an_error(result, error, message):
    class Wrong(PolicyLoss):
        def __call__(self, given):
            return result

    with pytest.raises(error, match=message):
        Wrong().entries(LossInputs(LOGP, LOGP, torch.ones(2), MASK))
