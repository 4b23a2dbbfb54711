# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import math
from types import SimpleNamespace

import pytest
import torch

from mmdpad.engine.runner.rollout_stats import describe_rollout
from mmdpad.prompts import FAILURE_REASONS, format_response, parse_response
from mmdpad.structures import RolloutBatch

NAN = math.nan


def rollout_of(texts, reasoning_tokens, **parts):
    """Two groups of two."""
    return RolloutBatch([0, 1], [0, 1], 2, texts, [parse_response(t) for t in texts],
                        response_mask=torch.tensor([[1, 1], [1, 0], [1, 0], [1, 0]]).bool(),
                        truncated=torch.tensor([True, False, False, False]),
                        reasoning_tokens=torch.tensor(reasoning_tokens), **parts)


def test_by_hand():
    good = format_response('a b a b a b a b', (0, 0, 2, 2), ((1, 1), (2, 2)), 'the red dog')
    texts = [good, '<think>a b c</think>', '<answer>{}</answer> <caption>it</caption>',
             '<think> </think> no answer']
    rewards = torch.tensor([[1., 1.], [0., 2.]])
    logs = describe_rollout(
        rollout_of(texts, [8., 3., NAN, 1.], signals={'s': torch.tensor([[1., NAN], [3., NAN]])},
                   rewards={'a': rewards, 'b': torch.ones(2, 2)}, total_rewards=rewards))
    assert logs == pytest.approx({
        'reward': 1.0, 'reward_std': 2**0.5 / 2, 'frac_reward_zero_std': 0.5,
        # (0 + 0 + 1 + 1) / (4 - 1)
        'reward/a': 1.0, 'reward_std/a': (2 / 3)**0.5, 'reward/b': 1.0, 'reward_std/b': 0.0,
        'signal/s': 2.0, 'truncated': 0.25, 'response_tokens': 1.25, 'reasoning_tokens': 4.0,
        'parse_failures': 0.75, 'failed/no_answer': 0.5, 'failed/missing_key': 0.25,
        'failed/no_json': 0.0, 'failed/bad_value': 0.0, 'failed/empty_box': 0.0,
        'failed/too_many': 0.0, 'empty_think': 0.5, 'caption_words': 2.0,
        # Group 0: ab, ba, bc of nine bigrams; group 1 has none.
        'distinct_2': (3 / 9 + 0) / 2,
        # 4-grams abab, baba and then three again; "a b c" has none.
        'repetition': (3 / 5 + 0) / 2})


def test_nothing_that_can_be_read():
    logs = describe_rollout(
        rollout_of(['', '\x00', '</think><think>', '\ud800'], [NAN] * 4,
                   signals={'s': torch.full((2, 2), NAN)}, total_rewards=torch.zeros(2, 2)))
    assert not {'reasoning_tokens', 'caption_words', 'repetition', 'signal/s'} & logs.keys()
    assert all(math.isfinite(value) for value in logs.values())
    assert logs['empty_think'] == logs['parse_failures'] == logs['failed/no_answer'] == 1
    assert logs['distinct_2'] == 0
    assert {f'failed/{reason}' for reason in FAILURE_REASONS} <= logs.keys()


def test_groups_without_a_signal_are_those_whose_compared_numbers_are_equal():
    rewards = torch.tensor([[1., 1.], [0., 2.]])
    rollout = rollout_of(['a'] * 4, [1.] * 4, total_rewards=rewards)
    flat = [describe_rollout(rollout, (), compared)['frac_reward_zero_std']
            for compared in (None, torch.tensor([[-1., 1.], [0., 2.]]), torch.zeros(2, 2))]
    assert flat == [0.5, 0.0, 1.0]


def test_no_name_looks_like_a_loss_that_is_to_be_added_up():
    logs = describe_rollout(rollout_of(['a'] * 4, [1.] * 4, total_rewards=torch.zeros(2, 2)))
    assert not [name for name in logs if 'loss' in name]


def test_terms_are_averaged_over_the_prompts_of_their_tasks():
    rewards = dict(a=torch.tensor([[1., 3.], [NAN, NAN]]), b=torch.full((2, 2), NAN))
    rollout = rollout_of(['x'] * 4, [1.] * 4, rewards=rewards,
                         total_rewards=torch.tensor([[1., 3.], [0., 5.]]))
    rollout.data_samples = [SimpleNamespace(task=task) for task in ('one', 'two')]
    logs = describe_rollout(rollout, ['one', 'two', 'three'])
    assert (logs['reward/a'], logs['reward_std/a']) == (2.0, pytest.approx(2**0.5))
    assert (logs['task_reward/one'], logs['task_reward/two']) == (2.0, 2.5)
    assert not {'reward/b', 'reward_std/b', 'task_reward/three'} & logs.keys()
    assert not [name for name in describe_rollout(rollout, ['one']) if 'task' in name]
