# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import math

import pytest
import torch

from mmdpad.prompts import parse_response
from mmdpad.rewards import ReasoningLengthReward, RepetitionReward
from mmdpad.structures import RolloutBatch


def rollout_of(*reasonings, tokens=None):
    texts = ['no tags' if text is None else f'<think>{text}</think>' for text in reasonings]
    return RolloutBatch([0], [0], len(texts), texts, [parse_response(text) for text in texts],
                        reasoning_tokens=torch.tensor(tokens or [math.nan] * len(texts)))


def test_length_by_hand():
    rollout = rollout_of(*'abcdef', tokens=[1., 100., 150., 200., 999., 125.])
    assert ReasoningLengthReward(100, 200)(rollout).tolist() == [[1., 1., .5, 0., 0., .75]]


def test_missing_and_empty_reasoning_earns_nothing():
    rollout = rollout_of(None, '', tokens=[math.nan, 0.])
    assert ReasoningLengthReward(100, 200)(rollout).tolist() == [[0., 0.]]
    assert RepetitionReward()(rollout).tolist() == [[0., 0.]]


def test_repetition_by_hand():
    # the pairs: a b, b a, a b: one of three is a repeat
    reward = RepetitionReward(n=2)(rollout_of('a b a b', 'a b c d', 'a'))
    assert reward.tolist() == [[pytest.approx(2 / 3), 1., 1.]]


def test_a_loop_earns_next_to_nothing():
    assert RepetitionReward()(rollout_of('it is red. ' * 5000)).max() < 0.01


@pytest.mark.parametrize('soft, hard', [(0, 10), (10, 10), (20, 10)])
def test_limits_in_disorder(soft, hard):
    with pytest.raises(ValueError, match='0 < soft < hard'):
        ReasoningLengthReward(soft, hard)
