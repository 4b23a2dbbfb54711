# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
from mmengine.dataset import DefaultSampler

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
    assert list(sampler) == [0, 1, 2, 3, 4], 'where nothing restores the order'
    sampler.longest_first = True
    assert list(sampler) == [4, 2, 0, 3, 1] == list(sampler)
    assert len(sampler) == 5


@pytest.mark.parametrize('processes', [2, 3, 7])
def test_processes_share_the_items_as_mmengines_sampler_does(be_process, processes):
    """Then each has what it needs to restore the order of the data set."""
    for rank in range(processes):
        be_process(rank, processes)
        sampler = LengthSortedSampler(Questions())
        share, sampler.longest_first = list(sampler), True
        assert share == list(DefaultSampler(Questions(), shuffle=False))
        assert sorted(sampler) == sorted(share)
        lengths = [len(QUESTIONS[i]) for i in sampler]
        assert lengths == sorted(lengths, reverse=True)


def test_a_data_set_without_questions_keeps_its_order():
    sampler = LengthSortedSampler(range(4))
    sampler.longest_first = True
    assert list(sampler) == [0, 1, 2, 3]
