# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from mmdet.structures import DetDataSample

from mmdpad.engine.runner import replay
from mmdpad.engine.runner.group_comparison import GroupComparison
from mmdpad.engine.runner.replay import ReplayBuffer
from mmdpad.rewards import RewardComposition
from mmdpad.structures import RolloutBatch

FLAT, SMALL, LARGE = [1., 1.], [0., 1.], [0., 3.]


def rollout(*rewards, first=0):
    """Groups of two, whose log-probabilities tell them apart."""
    number = len(rewards)
    samples = [DetDataSample(metainfo=dict(question=f'q{first + n}', task='one'))
               for n in range(number)]
    totals = torch.tensor(rewards, dtype=torch.float64)
    logp = -(first + torch.arange(2. * number)[:, None] // 2 + torch.tensor([[0., 0.5]]))
    return RolloutBatch(
        samples, [torch.full((3, 2, 2), first + n, dtype=torch.uint8) for n in range(number)], 2,
        [f'{n}' for n in range(2 * number)], [None] * 2 * number,
        response_ids=torch.ones(2 * number, 2, dtype=torch.long),
        response_mask=torch.ones(2 * number, 2, dtype=torch.bool),
        truncated=torch.zeros(2 * number, dtype=torch.bool),
        reasoning_tokens=torch.zeros(2 * number), rewards=dict(r=totals), total_rewards=totals,
        advantages=totals - totals.mean(1, keepdim=True), old_logp=logp, ref_logp=logp,
        prompts=[f'p{first + n}' for n in range(number)])


def encode(images, samples):
    return [f'p{int(image[0, 0, 0])}' for image in images]


def exchange(buffer, given, iteration):
    return buffer.exchange(given, given.total_rewards, iteration, 7, encode)


def test_flat_groups_give_way_to_earlier_ones_with_their_old_probabilities():
    buffer = ReplayBuffer(2)
    mixed, logs = exchange(buffer, rollout(SMALL, FLAT, FLAT), 0)
    assert logs == dict(replayed=0.0) and mixed.prompts == ['p0', 'p1', 'p2']
    assert mixed.ref_logp is None and len(buffer.groups) == 1
    given = rollout(FLAT, LARGE, FLAT, first=3)
    given.entropy_threshold = 0.5
    mixed, logs = exchange(buffer, given, 2)
    assert mixed.entropy_threshold == 0.5  # of this iteration
    # One of two places, in the order of the prompts; the other has nothing to take its place.
    assert logs == dict(replayed=pytest.approx(1 / 3), replay_age=2.0)
    assert mixed.prompts == ['p0', 'p4', 'p5']
    assert mixed.old_logp[:, 0].tolist() == [0., 0., -4., -4., -5., -5.]
    assert mixed.advantages.tolist() == [[-.5, .5], [-1.5, 1.5], [0., 0.]]
    assert mixed.data_samples[0].question == 'q0' and mixed.texts[:2] == ['0', '1']
    exchange(buffer, rollout(SMALL, first=6), 3)
    assert [group['question'] for group in buffer.groups] == ['q4', 'q6']  # the latest two


def test_groups_are_drawn_by_the_size_of_their_advantages():
    """|A| sums to 1 and 3, the deviations are sqrt(1/2) and 3 sqrt(1/2): probabilities 1:9."""
    buffer = ReplayBuffer(2)
    exchange(buffer, rollout(SMALL, LARGE), 0)
    drawn = [exchange(buffer, rollout(FLAT), n)[0].prompts[0] for n in range(400)]
    assert drawn.count('p1') / 400 == pytest.approx(0.9, abs=0.06)


def test_signal_is_what_the_estimator_compares():
    terms = RewardComposition({})
    terms.add('r', lambda rollout: None)
    given = rollout(FLAT, SMALL)
    compared = GroupComparison('gdpo', terms).compared(given)
    assert ReplayBuffer(4)._scores(given, compared)[0] == 0 != (
        ReplayBuffer(4)._scores(given, compared)[1])


def test_the_state_is_plain_and_resumes_exactly():
    buffer, resumed = ReplayBuffer(4), ReplayBuffer(4)
    exchange(buffer, rollout(SMALL, LARGE), 0)
    resumed.load_state_dict(buffer.state_dict())
    ends = [exchange(one, rollout(FLAT, SMALL, first=2), 1)[0] for one in (buffer, resumed)]
    assert ends[0].prompts == ends[1].prompts and ends[0].old_logp.equal(ends[1].old_logp)
    assert len(buffer.groups) == len(resumed.groups) == 3


@pytest.mark.parametrize('change', [
    lambda given: setattr(given, 'old_entropy', torch.ones(6, 2)),
    lambda given: setattr(given, 'sampling_logp', torch.ones(6, 2)),
    lambda given: setattr(given, 'group_size', 3)])
def test_groups_of_other_settings_are_let_go(change):
    """A run may resume with a loss, an engine or a group size that needs other values."""
    buffer, given = ReplayBuffer(4), rollout(FLAT, SMALL, FLAT, first=1)
    exchange(buffer, rollout(SMALL), 0)
    change(given)
    if given.group_size == 3:
        given.total_rewards = torch.tensor([[1., 1, 1], [0, 0, 3]])
        given.advantages = given.total_rewards - 1
        given = given.select([0, 1])
    mixed, logs = exchange(buffer, given, 1)
    assert logs == dict(replayed=0.0) and mixed.response_ids.shape == (6, 2)
    assert len(buffer.groups) == 1


def test_two_processes_replay_what_one_does(monkeypatch):
    """Process r has every second prompt, from r on."""
    rank, meet, slots = threading.local(), threading.Barrier(2, timeout=60), [None, None]

    def gather(own):
        slots[rank.value] = own
        meet.wait()
        found = list(slots)
        meet.wait()
        return found

    batches = [(SMALL, FLAT, LARGE, FLAT), (FLAT, FLAT, SMALL, FLAT)]
    buffer = ReplayBuffer(8)
    whole = [exchange(buffer, rollout(*batch, first=4 * n), n)[0].prompts
             for n, batch in enumerate(batches)]
    monkeypatch.setattr(replay, 'all_gather_object', gather)
    monkeypatch.setattr(replay, 'get_rank', lambda: rank.value)
    monkeypatch.setattr(replay, 'get_world_size', lambda: 2)

    def process(number):
        rank.value, own = number, ReplayBuffer(8)
        return [exchange(own, rollout(*batch, first=4 * n).select([number, number + 2]), n)[0]
                .prompts for n, batch in enumerate(batches)]

    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(process, range(2)))
    for n, prompts in enumerate(whole):
        assert [parts[place % 2][n][place // 2] for place in range(4)] == prompts
    assert set(whole[1]) >= {'p0', 'p2', 'p6'}
