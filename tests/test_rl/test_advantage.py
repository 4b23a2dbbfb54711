# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
from pathlib import Path

import pytest
import torch

from mmdpad.rl import ADVANTAGES, compute_advantages, group_relative_advantage, has_signal

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
