# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from itertools import islice

import pytest
import torch
from mmengine.dataset import InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader, Dataset

from mmdpad.datasets.samplers import SelectiveSampler
from mmdpad.datasets.samplers.selective_sampler import find_selective, find_short_delay

QUESTIONS, BATCH = 12, 4


class Numbers(Dataset):
    def __len__(self):
        return QUESTIONS

    def __getitem__(self, number):
        return number


def has_signal(number):
    """The first half of the questions teaches something."""
    return number < QUESTIONS // 2


def build(delay=3 * BATCH, **settings):
    return SelectiveSampler(Numbers(), delay=delay, seed=7, **settings)


def ask(sampler, batches, workers=0, batch=BATCH):
    """Questions asked in so many batches, with feedback after each, and its log."""
    loader = DataLoader(Numbers(), batch, sampler=sampler, num_workers=workers)
    found, passed = [], []
    for numbers in islice(loader, batches):
        sampler.update([has_signal(number) for number in numbers.tolist()])
        found += numbers.tolist()
        passed.append(sampler.log()['passed_over'])
    return found, passed


def test_the_chance_by_hand():
    """GRESO with p = 0.5 for questions that are too easy or too hard: 1, 1/2, 1/4, ..., 1/100."""
    found = [build().chance(streak) for streak in (0, 1, 2, 6, 7, 1000)]
    assert found == [1.0, 0.5, 0.25, 0.5**6, 0.01, 0.01]
    assert build(explore=0.9, min_explore=0.5).chance(20) == 0.5


def test_questions_without_a_signal_are_asked_less_often():
    found, passed = ask(build(), 60)
    without = [not has_signal(number) for number in found]
    assert sum(without[:12]) / 12 == 0.5 > 0.2 > sum(without[-96:]) / 96 > 0
    assert passed[:3] == [0, 0, 0] and sum(passed[-24:]) / 24 > 0.5
    assert all(found.count(number) > 20 for number in range(QUESTIONS // 2))


def test_with_a_signal_everywhere_or_chance_1_the_order_is_that_of_the_infinite_sampler():
    expected = list(islice(InfiniteSampler(Numbers(), seed=7), 100))
    assert ask(build(explore=1.0), 25)[0] == expected
    sampler = build()
    sampler.load_state_dict(None, 100)
    assert list(islice(sampler, 100)) == expected
    assert ask(build(), 25)[0] != expected


def test_a_prompt_without_a_signal_counts_from_delay_prompts_on():
    """With a delay of exactly the distance to its second turn a question misses it, with one more
    it does not."""
    expected = list(islice(InfiniteSampler(Numbers(), seed=7), 80))
    second = expected.index(expected[0], 1)
    for delay, left_out in ((second, 1), (second + 1, 0)):
        sampler = build(delay, explore=1e-9, min_explore=1e-9)
        sampler.load_state_dict(None, 80)
        sampler._signals[0] = False
        found = list(islice(sampler, second + 1))
        assert found == expected[:second] + [expected[second + left_out]]


@pytest.mark.parametrize('workers', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_order_is_the_same_for_every_number_of_workers(workers):
    """Workers draw two batches each ahead of time."""
    delay = (2 * workers + 1) * BATCH
    assert ask(build(delay), 15, workers) == ask(build(delay), 15)


def test_the_order_is_the_same_for_every_number_of_processes(monkeypatch):
    """Two processes with half as many prompts each; each takes every other prompt."""
    expected, passed = ask(build(), 20)
    samplers = [build(), build()]
    for rank, sampler in enumerate(samplers):
        sampler.rank, sampler.world_size = rank, 2
    loaders = [iter(BatchSampler(sampler, BATCH // 2, True)) for sampler in samplers]
    found, logs = [], []
    for _ in range(20):
        own = [next(loader) for loader in loaders]
        found += [number for pair in zip(*own, strict=True) for number in pair]
        signals = [[has_signal(number) for number in numbers] for numbers in own]
        monkeypatch.setattr('mmdpad.datasets.samplers.selective_sampler.all_gather_object',
                            lambda _, signals=signals: signals)
        for sampler, some in zip(samplers, signals, strict=True):
            sampler.update(some)
        logs.append(sum(sampler.log()['passed_over'] for sampler in samplers) / 2)
    assert found == expected and logs == passed


def test_resumed_it_repeats_the_past_and_continues(tmp_path):
    straight = build()
    expected, _ = ask(straight, 30)
    before = build()
    ask(before, 18)
    torch.save(before.state_dict(), tmp_path / 'state.pth')
    resumed = build()
    loader = iter(DataLoader(Numbers(), BATCH, sampler=resumed, num_workers=1))
    resumed.load_state_dict(torch.load(tmp_path / 'state.pth', weights_only=True), 18 * BATCH)
    found = []
    for number in range(30):
        numbers = next(loader).tolist()
        found += numbers
        if number >= 18:
            resumed.update([has_signal(number) for number in numbers])
    assert found == expected
    assert resumed.state_dict()['signals'].equal(straight.state_dict()['signals'])


@pytest.mark.parametrize('change, prompts', [
    (dict(explore=0.9), 40), (dict(delay=13), 40), (dict(), 44)])
def test_what_a_resumed_run_does_not_know_counts_as_a_signal(change, prompts, monkeypatch):
    said = []
    monkeypatch.setattr('mmdpad.datasets.samplers.selective_sampler.print_log',
                        lambda message, **_: said.append(message))
    before = build()
    ask(before, 10)
    after = build(**change)
    after.load_state_dict(before.state_dict(), prompts)
    signals = after.state_dict()['signals'].tolist()
    known = [] if change else before.state_dict()['signals'].tolist()
    assert signals == known + [True] * (prompts - len(known))
    assert len(said) == 1 and said[0].startswith('--resume: the checkpoint does not say')


def test_a_loop_that_says_nothing_is_an_error():
    order = iter(build())
    assert len(list(islice(order, 12))) == 12
    with pytest.raises(RuntimeError, match='but was told of 0 prompts; use GRPOTrainLoop'):
        next(order)


def test_a_delay_that_workers_overtake_is_refused():
    assert list(find_short_delay(36, 12, 1, None, 0)) == []
    problem, = find_short_delay(35, 12, 1, None, 0)
    assert 'should be at least 36 (batches of 12 prompts' in problem and 'got 35' in problem
    assert list(find_short_delay(12 * 12, 12, 2, 5, 1)) == []
    assert list(find_short_delay(12 * 12 - 1, 12, 2, 5, 1))
    assert list(find_short_delay(12, 12, 0, None, 0)) == []
    loader = DataLoader(Numbers(), BATCH, sampler=build(4), num_workers=1)
    with pytest.raises(ValueError, match='at least 12 .* but got 4'):
        find_selective(loader, 0)
    assert find_selective(DataLoader(Numbers(), BATCH), 0) is None
    for wrong in (dict(explore=0.0), dict(min_explore=1.5), dict(delay=0)):
        with pytest.raises(ValueError, match=f'`{next(iter(wrong))}` should be'):
            build(**wrong)
