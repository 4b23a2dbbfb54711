# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest

from mmdpad.datasets.samplers import LengthSortedSampler
from mmdpad.registry import DATA_SAMPLERS

QUESTIONS = ['bb', 'a', 'dddd', 'cc', 'eeeee']


class Questions:
    """Items that can be described, but not loaded."""

    def __len__(self):
        return len(QUESTIONS)

    def get_data_info(self, i):
        return dict(question=QUESTIONS[i])


@pytest.fixture
def be_process(monkeypatch):
    def be(rank, processes):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (rank, processes))

    return be


def test_the_longest_question_comes_first_and_equal_ones_keep_their_order():
    sampler = DATA_SAMPLERS.build(dict(type='LengthSortedSampler', dataset=Questions(), seed=3))
    assert list(sampler) == [4, 2, 0, 3, 1] == list(sampler)
    assert len(sampler) == 5


@pytest.mark.parametrize('processes', [2, 3, 7])
def test_processes_share_the_items_as_mmengine_collects_results(be_process, processes):
    """mmengine takes one result of each process in turn and cuts what comes after the data."""
    shares = []
    for rank in range(processes):
        be_process(rank, processes)
        shares.append(list(LengthSortedSampler(Questions())))
    assert len({len(share) for share in shares}) == 1
    collected = [item for turn in zip(*shares, strict=True) for item in turn]
    assert collected[:5] == [4, 2, 0, 3, 1]


def test_a_data_set_without_questions_keeps_its_order():
    assert list(LengthSortedSampler(range(4))) == [0, 1, 2, 3]
