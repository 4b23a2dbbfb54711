# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch

from mmdpad.registry import REWARDS
from mmdpad.rewards import QuantileReward
from mmdpad.rewards.quantile import quantile_ranks
from mmdpad.structures import ParseFailure, RolloutBatch


@REWARDS.register_module(force=True)
def given_values(rollout, scale=1.0):
    return rollout.signals['given'] * scale


def rollout_of(*values):
    group = len(values)
    return RolloutBatch([0], [0], group, [''] * group, [ParseFailure('no_answer', '')] * group,
                        signals=dict(given=torch.tensor([values])))


def term(window=8):
    return QuantileReward(dict(type='given_values'), window=window)


def test_ranks_by_hand():
    # 0.2 of [.1 .2 .2 .4]: one below, two equal
    assert quantile_ranks([.1, .2, .4, .9], [.4, .2, .1, .2]) == [.125, .5, .875, 1.]


def test_values_are_ranked_among_the_last_ones():
    reward = term(window=4)
    assert reward(rollout_of(.1, .3)).tolist() == [[.25, .75]]
    # Remembered: .1 .3 .2 .4
    assert reward(rollout_of(.2, .4)).tolist() == [[.375, .875]]
    # Remembered: .2 .4 .5 .6
    assert reward(rollout_of(.5, .6)).tolist() == [[.625, .875]]


def test_the_lowest_value_earns_nothing_however_common():
    assert term()(rollout_of(0., 0., 0., .9)).tolist() == [[0., 0., 0., .875]]


def test_the_order_is_kept_whatever_the_scale():
    small = term()(rollout_of(1e-9, 2e-9, 3e-9))
    assert small.equal(term()(rollout_of(1., 2., 3.)))


def test_its_memory_is_plain_data_and_is_taken_up():
    first, second = term(), term()
    first(rollout_of(.1, .2))
    assert first.state_dict() == dict(values=pytest.approx([.1, .2]))
    second.load_state_dict(first.state_dict())
    assert first(rollout_of(.3, .4)).equal(second(rollout_of(.3, .4)))


def test_window_too_small():
    with pytest.raises(ValueError, match='window'):
        term(window=1)


def test_the_term_within_is_prepared_and_keeps_its_memory():
    class Model:
        decoder = None

    nested, other = (QuantileReward(dict(type='QuantileReward', term=dict(type='given_values')))
                     for _ in range(2))
    nested(rollout_of(.1, .2))
    other.load_state_dict(nested.state_dict())
    assert list(other.term.values) == list(nested.term.values) == pytest.approx([.1, .2])
    with pytest.raises(ValueError, match='`model.decoder`'):
        QuantileReward(dict(type='MaskReward')).prepare(Model, None)


def test_a_process_without_prompts_takes_part():
    """Its terms are not asked, but it gets the values of the others."""
    reward = term()
    assert reward(rollout_of(.1, .3).select([])).shape == (0, 2) and reward.all_processes
    assert reward(rollout_of(.1, .3)).tolist() == [[.25, .75]]
