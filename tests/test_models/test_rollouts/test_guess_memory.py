# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch

from mmdpad.models.rollouts import guess_memory, ngrams
from mmdpad.models.rollouts.guess_memory import GuessMemory, Texts
from mmdpad.models.rollouts.ngrams import CONTEXTS

TOP, DRAWN = 2**ngrams.DRAWS, np.array([0.25, 0.75])


def remember(memory, value, draws=DRAWN):
    ids = np.array([[value, 1, 2, 3], [4, value, 0, 0]])
    tally = np.zeros((2, *guess_memory.SHAPE))
    tally[:, value] = 1
    grid = None if draws is None else (np.outer(draws, np.ones(4)) * TOP).astype(np.uint64)
    memory.add(Texts.of(ids, np.array([4, 2]), grid), tally, (8, 12, 10))


def test_a_memory_keeps_the_last_rollouts_and_resumes(tmp_path):
    memory = GuessMemory()
    for value in range(1, 7):
        remember(memory, value)
        assert len(memory.recent) == 1
        memory.share()
    assert len(memory.rollouts) == guess_memory.ROLLOUTS
    assert memory.log == {'speculation/acceptance_length': 10 / 8,
                          'speculation/acceptance_rate': 2 / 4}
    torch.save(memory.state_dict(), tmp_path / 'state.pth')
    resumed = GuessMemory()
    resumed.load_state_dict(torch.load(tmp_path / 'state.pth', weights_only=True))
    for greedy in (False, True):
        assert np.array_equal(memory.observations(greedy), resumed.observations(greedy))
        assert len(memory.observations(greedy)) == 4 + guess_memory.ROLLOUTS * 6 * len(CONTEXTS)
    assert np.array_equal(memory.tally(), resumed.tally()) and memory.log == resumed.log
    assert memory.tally()[0, 6, 0, 0, 0] == pytest.approx(2 + 1)
    assert memory.tally()[0, 5, 0, 0, 0] == pytest.approx(2 + guess_memory.FADING)


def test_an_evaluation_leaves_nothing_behind():
    """What it sampled is known to its next batch, and forgotten when a training goes on."""
    memory = GuessMemory()
    remember(memory, 1)
    memory.share()
    before, tally = memory.observations(True), memory.tally()
    remember(memory, 2, None)
    assert len(memory.observations(True)) > len(before)
    assert memory.tally()[0, 2, 0, 0, 0] == tally[0, 2, 0, 0, 0] + 1
    memory.forget_recent()
    memory.share()
    assert np.array_equal(memory.observations(True), before)
    assert np.array_equal(memory.tally(), tally)


def test_the_newest_responses_are_remembered(monkeypatch):
    """Of 6 tokens in each rollout, those of whole responses; of each process as many."""
    monkeypatch.setattr(guess_memory, 'MOST_TOKENS', 5)
    memory = GuessMemory()
    remember(memory, 9)
    one, = memory.recent
    assert one['tokens'].tolist() == [4, 9] and one['lengths'].tolist() == [2]
    assert one['draws'].tolist() == [0.75 * TOP] * 2
    memory.forget_recent()
    remember(memory, 8, None)
    monkeypatch.setattr(guess_memory, 'all_gather_object', lambda own: [
        [dict(one) for one in own] for _ in range(2)])
    memory.share()
    rollout, = memory.rollouts
    assert [one['tokens'].tolist() for one in rollout] == [[4, 8]] * 2
    monkeypatch.setattr(guess_memory, 'MOST_TOKENS', 1)
    remember(memory, 7)
    assert len(memory.recent[0]['tokens']) == 0
    assert len(memory.observations(True)) == 4 + 4 * len(CONTEXTS)


def test_the_turns_of_a_conversation_count_as_one_rollout(monkeypatch):
    """Of five conversations of five turns, numbered from 1 to 25, the last four remain."""
    monkeypatch.setattr(guess_memory, 'MOST_TOKENS', 5 * 2)  # a turn has one response of two
    memory = GuessMemory(turns=5)
    for turn in range(1, 26):
        remember(memory, turn)
    assert [one['tokens'].tolist() for one in memory.recent] == [[4, n] for n in range(6, 26)]
    memory.forget_recent()
    for turn, (fed, kept) in enumerate([(40, 39), *[(8, 8)] * 4], start=1):
        ids = np.array([[turn, 9]])
        memory.add(Texts.of(ids, np.array([2]), None), np.zeros((2, *guess_memory.SHAPE)),
                   (8, fed, kept))
    memory.share()
    rollout, = memory.rollouts
    assert [one['tokens'].tolist() for one in rollout] == [[turn, 9] for turn in range(1, 6)]
    assert memory.log == {'speculation/acceptance_length': (39 + 32) / 40,
                          'speculation/acceptance_rate': (71 - 40) / (72 - 40)}


def test_a_rollout_without_guesses_is_not_in_the_log():
    memory = GuessMemory()
    remember(memory, 1)
    memory.share()
    assert memory.log
    memory.add(Texts.of(np.ones((1, 3), dtype=np.int64), np.array([3]), None),
               np.zeros((2, *guess_memory.SHAPE)), (2, 2, 2))
    memory.share()
    assert memory.log == {} and len(memory.rollouts) == 2
