# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
from pathlib import Path

import pytest
import torch

from mmdpad.rl import (
    ADVANTAGES,
    TaskSpread,
    compute_advantages,
    decoupled_rewards,
    group_relative_advantage,
    has_signal,
)

GOLDEN = Path(__file__).parents[1] / 'data' / 'golden' / 'grpo.jsonl'


def test_by_hand():
    # mean 2, unbiased std sqrt((1 + 0 + 1) / 2) = 1
    advantage = group_relative_advantage(torch.tensor([[1., 2., 3.]]), eps=0.0)
    assert advantage.tolist() == [[-1., 0., 1.]]


def test_flat_groups_and_groups_of_one_carry_no_signal():
    rewards = torch.tensor([[0.1, 0.1, 0.1], [0.7, 0.7, 0.7]])
    assert group_relative_advantage(rewards).tolist() == [[0.] * 3] * 2
    assert group_relative_advantage(torch.tensor([[5.]])).tolist() == [[0.]]


def test_wrong_shape():
    with pytest.raises(ValueError, match='prompts, responses'):
        group_relative_advantage(torch.zeros(3))


@pytest.mark.parametrize('line', GOLDEN.read_text().splitlines())
def test_golden(line):
    case = json.loads(line)
    rewards = torch.tensor(case['scores']).reshape(case['num_prompts'], case['group_size'])
    torch.testing.assert_close(group_relative_advantage(rewards).flatten(),
                               torch.tensor(case['expected']['advantage']), rtol=1e-5, atol=1e-6)


REWARDS = torch.tensor([[1., 2., 3.], [4., 4., 4.]], dtype=torch.float64)


@pytest.mark.parametrize('estimator, expected', [
    ('grpo', [[-1., 0., 1.], [0., 0., 0.]]),
    ('dr_grpo', [[-1., 0., 1.], [0., 0., 0.]]),
    # 1 - (2 + 3) / 2, 2 - (1 + 3) / 2, 3 - (1 + 2) / 2
    ('rloo', [[-1.5, 0., 1.5], [0., 0., 0.]]),
    # mean 3, sum of squared differences 4 + 1 + 0 + 3 * 1 = 8, std sqrt(8 / 5)
    ('reinforce++', [[-2 / 1.6**.5, -1 / 1.6**.5, 0.], [1 / 1.6**.5] * 3]),
    # centered by group: -1 0 1 0 0 0, whose std is sqrt(2 / 5)
    ('reinforce++-baseline', [[-1 / .4**.5, 0., 1 / .4**.5], [0., 0., 0.]]),
    ('gdpo', [[-1 / .4**.5, 0., 1 / .4**.5], [0., 0., 0.]]),
    # mean 3 and mean square 62 / 6, so the spread is sqrt(4 / 3)
    ('ema_grpo', [[-1 / (4 / 3)**.5, 0., 1 / (4 / 3)**.5], [0., 0., 0.]]),
])
def test_estimators_by_hand(estimator, expected):
    advantages = compute_advantages(REWARDS, estimator, eps=0.0)
    torch.testing.assert_close(advantages, torch.tensor(expected, dtype=torch.float64))


def test_dr_grpo_keeps_the_scale_of_the_rewards():
    assert compute_advantages(torch.tensor([[0., 4.]]), 'dr_grpo').tolist() == [[-2., 2.]]


@pytest.mark.parametrize('estimator', ADVANTAGES)
def test_a_batch_that_tells_nothing_apart_gets_zero(estimator):
    assert compute_advantages(torch.full((2, 3), 0.1), estimator).abs().max() == 0


def test_unknown_estimator():
    with pytest.raises(ValueError, match='`advantage` should be one of .* but got'):
        compute_advantages(REWARDS, 'gae')


def test_which_groups_have_a_signal():
    assert has_signal(REWARDS).tolist() == [True, False]
    assert has_signal(torch.tensor([[0.1], [0.2]])).tolist() == [False, False]


@pytest.mark.parametrize('estimator', ADVANTAGES)
def test_a_mixture_of_tasks_has_the_advantages_of_each_task_alone(estimator):
    """Rewards of 'b' are 10 times those of 'a': in one batch, all of 'a' would be bad answers."""
    a, b = REWARDS, 10 * REWARDS.flip(0)
    mixed = torch.stack([a[0], b[0], b[1], a[1]])
    found = compute_advantages(mixed, estimator, tasks=['a', 'b', 'b', 'a'])
    assert found[[0, 3]].equal(compute_advantages(a, estimator))
    assert found[[1, 2]].equal(compute_advantages(b, estimator))
    assert compute_advantages(mixed, estimator, tasks=['a'] * 4).equal(
        compute_advantages(mixed, estimator))


def test_decoupled_rewards_by_hand():
    """Two binary terms; (0, 1) of the first term alone and (0, 2) of both are alike to GRPO."""
    one, both = torch.tensor([[0., 1.], [0., 1.]]), torch.tensor([[0., 0.], [0., 1.]])
    alike = group_relative_advantage(one + both, eps=0.0)
    assert alike[0].equal(alike[1])
    # mean 1/2, unbiased std sqrt(1/2): each term gives -+ 1/2 / sqrt(1/2) = -+ sqrt(1/2)
    found = decoupled_rewards([one, both], [1.0, 1.0], eps=0.0)
    half = .5**.5
    torch.testing.assert_close(found, torch.tensor([[-half, half], [-2 * half, 2 * half]],
                                                   dtype=torch.float64))
    # Over the batch: mean 0, sum of squares 1 + 4 = 5, std sqrt(5 / 3)
    torch.testing.assert_close(compute_advantages(found, 'gdpo', eps=0.0),
                               found / (5 / 3)**.5)


def test_a_weight_applies_to_the_normalized_term_and_its_scale_does_not_matter():
    torch.manual_seed(0)
    a, b = torch.rand(2, 3, 4)
    assert torch.allclose(decoupled_rewards([a, 100 * b], [1.0, 0.5], eps=0.0),
                          decoupled_rewards([a, b], [1.0, 0.5], eps=0.0))
    assert torch.allclose(decoupled_rewards([a, b], [1.0, -2.0]),
                          decoupled_rewards([a], [1.0]) - 2 * decoupled_rewards([b], [1.0]))


def test_terms_that_cancel_out_and_terms_that_score_nothing_are_no_signal():
    term = torch.tensor([[0.1, 0.7, 0.3], [0.2, 0.2, 0.2]])
    found = decoupled_rewards([term, 1 - term], [1.0, 1.0])
    assert not has_signal(found).any() and found.abs().max() == 0
    unscored = torch.full((2, 3), torch.nan)
    assert decoupled_rewards([term, unscored], [1.0, 5.0]).equal(decoupled_rewards([term], [1.0]))


def test_gdpo_is_trls_normalize_then_sum():
    """`multi_objective_aggregation='normalize_then_sum'` of trl/trainer/grpo_trainer.py, commit
    f2cd577, written out; NVlabs/GDPO, commit b080e63, is the same up to NaN and eps."""
    torch.manual_seed(1)
    rewards = torch.rand(5, 4, 3, dtype=torch.float64).round(decimals=1)  # prompts, answers, terms
    rewards[2, :, 1] = 0.5
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    eps = 1e-4
    normalized = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + eps)
    total = (normalized * weights).sum(2)
    expected = (total - total.mean()) / (total.std() + eps)
    found = compute_advantages(decoupled_rewards(list(rewards.unbind(2)), weights.tolist(), eps),
                               'gdpo', eps)
    torch.testing.assert_close(found, expected)


def test_the_spread_of_a_task_is_remembered():
    """`_EmaStdTracker` and `compute_ema_grpo_outcome_advantage` of OneThinker's
    EasyR1/verl/trainer/core_algos.py, commit 768b20f: the batch is included first."""
    spread = TaskSpread()
    assert spread.update('a', torch.tensor([1., 3.])) == pytest.approx(1.0)  # m1 2, m2 5
    first, second = 0.99 * 2 + 0.01 * 4, 0.99 * 5 + 0.01 * 16
    found = compute_advantages(torch.full((1, 2), 4.0), 'ema_grpo', tasks=['a'], spread=spread)
    assert found.abs().max() == 0
    assert spread.state_dict() == {'a': [pytest.approx(first), pytest.approx(second)]}
    resumed = TaskSpread()
    resumed.load_state_dict(spread.state_dict())
    rewards = torch.tensor([[2., 3.], [1., 2.]], dtype=torch.float64)
    found = compute_advantages(rewards, 'ema_grpo', tasks=['a', 'b'], spread=resumed)
    first, second = 0.99 * first + 0.01 * 2.5, 0.99 * second + 0.01 * 6.5
    expected = 0.5 / ((second - first**2)**.5 + 1e-6)
    assert found[0].tolist() == pytest.approx([-expected, expected])
    assert found[1].tolist() == pytest.approx([-1., 1.], abs=1e-5)  # its own spread, 0.5


def test_a_group_far_outside_the_spread_of_its_task_is_scaled_by_its_own():
    spread = TaskSpread()
    for _ in range(2):
        spread.update('', torch.full((8, ), 0.5))
    rewards = torch.tensor([[0., 1.], [.5, .501]], dtype=torch.float64)
    found = compute_advantages(rewards, 'ema_grpo', spread=spread)
    own = 0.5 / (0.5 + 1e-6)  # the biased std of 0 and 1
    assert found[0].tolist() == pytest.approx([-own, own])
    assert found[1].abs().max() < 0.1
