# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from types import SimpleNamespace

import pytest
import torch

from mmdpad.engine.runner.group_comparison import GroupComparison, check_comparison
from mmdpad.rewards import RewardComposition
from mmdpad.rl import GRPOLoss
from mmdpad.structures import RolloutBatch

NAN = float('nan')
ONE = torch.tensor([[0., 1.], [0., 1.]])


def rollout(**rewards):
    """Two groups of two, of the tasks 'a' and 'b'."""
    samples = [SimpleNamespace(task=task) for task in 'ab']
    batch = RolloutBatch(samples, [0, 0], 2, [''] * 4, [None] * 4, rewards=rewards)
    batch.total_rewards = sum(values.nan_to_num() for values in rewards.values())
    return batch


def composition(**weights):
    terms = RewardComposition({})
    for name, weight in weights.items():
        terms.add(name, lambda rollout: None, weight)
    return terms


def test_the_total_is_compared_unless_terms_are_normalized_first():
    batch = rollout(x=ONE, y=torch.tensor([[1., 0.], [0., 1.]]))
    assert GroupComparison('grpo', composition(x=1.0, y=1.0)).compared(batch) is (
        batch.total_rewards)
    half = .5**.5  # of each term; 0.5 is the weight of y, whose signs differ in the first group
    torch.testing.assert_close(
        GroupComparison('gdpo', composition(x=1.0, y=0.5)).compared(batch),
        torch.tensor([[-half / 2, half / 2], [-1.5 * half, 1.5 * half]], dtype=torch.float64),
        rtol=3e-4, atol=0)  # eps


def test_a_term_of_one_task_is_normalized_where_it_scores():
    terms = composition(x=1.0)
    terms.add('y', lambda rollout: None, 1.0, ['b'])
    batch = rollout(x=ONE, y=torch.tensor([[NAN, NAN], [0., 5.]]))
    comparison = GroupComparison('gdpo', terms)
    half = .5**.5
    torch.testing.assert_close(
        comparison.compared(batch), torch.tensor([[-half, half], [-2 * half, 2 * half]]).double(),
        rtol=3e-4, atol=0)  # eps
    # Batches are of one task: each has its own spread, sqrt(2) times the deviation.
    torch.testing.assert_close(comparison.advantages(batch, 2),
                               torch.tensor([[-half, half]] * 2).double(), rtol=3e-4, atol=0)  # eps


@pytest.mark.parametrize('estimator, kl_in, told', [
    ('gdpo', 'reward', "`advantage` should not be 'gdpo' with a loss"),
    ('gae', 'loss', '`advantage` should be one of')])
def test_what_does_not_work_together(estimator, kl_in, told):
    check_comparison('gdpo', GRPOLoss())
    check_comparison('grpo', GRPOLoss(kl_in='reward'))
    with pytest.raises(ValueError, match=told):
        check_comparison(estimator, GRPOLoss(kl_in=kl_in))
