# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import copy
import logging
import os
import pickle
import socket
from string import ascii_lowercase

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmdet.evaluation import DumpDetResults, MultiDatasetsEvaluator
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from mmdpad.datasets.samplers import LengthSortedSampler
from mmdpad.engine.runner.dataset_order import (
    InDatasetOrder,
    RecordedBatches,
    record_batches,
    select_rows,
)
from mmdpad.utils import read_jsonl


class Questions(list):
    """A data set that tells its questions; the longest first is another order than its own."""

    def get_data_info(self, index):
        return dict(question='x' * self[index])


ASKED = Questions([3, 1, 4, 1, 5])


class Seen(BaseMetric):
    """Its value is what it was given, by position."""

    default_prefix = 'seen'

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return dict(all=list(results))


class Batches(Seen):
    """One result a batch."""

    def process(self, data_batch, data_samples):
        self.results.append(list(data_samples))


def evaluate(batches, evaluator, size=5):
    recorded = RecordedBatches(batches)
    ordered = InDatasetOrder(evaluator, recorded)
    for batch in recorded:
        ordered.process([item + 100 for item in batch])
    return ordered.evaluate(size)


def by_parts(*extra, ends=(2, 5)):
    """An evaluator of data sets `a`, `b` and so on, which end at these items."""
    names = ascii_lowercase[:len(ends)]
    evaluator = MultiDatasetsEvaluator([*(Seen() for _ in ends), *extra], list(names))
    evaluator.dataset_meta = dict(cumulative_sizes=list(ends))
    return evaluator


WHOLE = [100, 101, 102, 103, 104]
BY_PARTS = {'a/seen/all': WHOLE[:2], 'b/seen/all': WHOLE[2:]}


def sorted_sampler(**options):
    sampler = LengthSortedSampler(ASKED, **options)
    sampler.longest_first = True
    return sampler


def test_results_are_in_the_order_of_the_data_set_and_repetitions_are_out():
    assert evaluate([[4, 2], [0, 0, 1], [3]], Evaluator(Seen())) == {'seen/all': WHOLE}
    assert evaluate(BatchSampler(sorted_sampler(), 2, False), by_parts()) == BY_PARTS


def test_a_metric_beyond_those_of_the_data_sets_sees_all():
    """mmdet's zip() leaves it out: DumpDetResults, which its tools/test.py adds, wrote nothing."""
    assert evaluate([[4, 2], [0, 1, 3]], by_parts(Seen(prefix='more'))) == {
        **BY_PARTS, 'more/all': WHOLE}


class Own(Seen):
    """A metric that can only score the samples of its data set."""

    def __init__(self, own, **options):
        super().__init__(**options)
        self.own = own

    def process(self, data_batch, data_samples):
        assert set(data_samples) <= self.own and data_batch['inputs'] == data_samples
        super().process(data_batch, data_samples)


def test_each_metric_scores_the_samples_of_its_own_data_set():
    evaluator = MultiDatasetsEvaluator([Own({100, 101}), Own({102, 103, 104})], ['a', 'b'])
    evaluator.dataset_meta = dict(cumulative_sizes=[2, 5])
    recorded = RecordedBatches([[4, 0], [3, 2], [1]])
    ordered = InDatasetOrder(evaluator, recorded)
    for batch in recorded:
        samples = [item + 100 for item in batch]
        ordered.process(samples, dict(inputs=samples, other=3))
    assert ordered.evaluate(5) == BY_PARTS


def test_a_metric_of_a_data_set_needs_a_result_for_each_sample():
    evaluator = MultiDatasetsEvaluator([Seen(), Batches()], ['a', 'b'])
    evaluator.dataset_meta = dict(cumulative_sizes=[2, 5])
    with pytest.raises(ValueError, match=r"Batches \(data set 2 of 2\) kept 1 for 2; evaluate"):
        evaluate([[4, 2], [0, 1, 3]], evaluator)


def test_rows_of_a_batch_are_selected_at_any_depth():
    batch = dict(inputs=dict(a=[1, 2, 3], b=torch.tensor([[1], [2], [3]])), n=3, pair=(1, 2))
    chosen = select_rows(batch, [2, 0], 3)
    assert chosen['inputs']['a'] == [3, 1] and chosen['inputs']['b'].tolist() == [[3], [1]]
    assert chosen['n'] == 3 and chosen['pair'] == (1, 2)


def test_results_that_are_not_one_a_sample_stay_as_they_are():
    assert evaluate([[1, 0], [4, 3, 2]], Evaluator(Batches())) == {
        'seen/all': [[101, 100], [104, 103, 102]]}


def test_items_that_were_not_evaluated_are_reported_or_refused():
    records, handler = [], logging.Handler()
    handler.emit = records.append
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        assert evaluate([[2], [0]], Evaluator(Seen())) == {'seen/all': [100, 102]}
    finally:
        logger.removeHandler(handler)
    assert records[0].getMessage() == '2 of the 5 items of the data set were evaluated'
    with pytest.raises(ValueError, match='2 of the 5 items of the data set were evaluated, but'):
        evaluate([[2], [0]], by_parts())


@pytest.mark.parametrize('meta, match', [
    (dict(classes=('object', )), "needs mmdet's ConcatDataset"),
    (dict(cumulative_sizes=[1, 2, 5]), 'each of the 3 data sets, but got 2 `dataset_prefixes` and '
     '2 `metrics`')])
def test_other_parts_than_the_data_set_has_are_refused_before_the_first_batch(meta, match):
    evaluator = by_parts()
    evaluator.dataset_meta = meta
    with pytest.raises(ValueError, match=match):
        InDatasetOrder(evaluator, RecordedBatches([]))


def test_each_metric_gets_the_metainfo_of_its_data_set():
    evaluator = by_parts()
    evaluator.dataset_meta = [dict(cumulative_sizes=[2, 5], n=n) for n in (0, 1)]
    InDatasetOrder(evaluator, RecordedBatches([]))
    assert [metric.dataset_meta['n'] for metric in evaluator.metrics] == [0, 1]


def test_only_a_recorded_loader_sorts():
    loader = DataLoader(ASKED, batch_size=2, sampler=LengthSortedSampler(ASKED))
    assert [batch.tolist() for batch in loader] == [[3, 1], [4, 1], [5]]
    recorded = record_batches(loader)
    assert [batch.tolist() for batch in loader] == [[5, 4], [3, 1], [1]]
    assert recorded.given == [[4, 2], [0, 1], [3]] and len(loader) == len(recorded) == 3
    assert record_batches(loader) is recorded and isinstance(recorded.sampler, LengthSortedSampler)

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(ASKED)

    assert record_batches(DataLoader(Stream())) is None


# What each of two processes evaluates of five items, in batches of two.
SHARES = dict(
    padded=lambda rank: DefaultSampler(ASKED, shuffle=False),
    uneven=lambda rank: DefaultSampler(ASKED, shuffle=False, round_up=False),
    sorted=lambda rank: sorted_sampler(),
    sorted_uneven=lambda rank: sorted_sampler(round_up=False),
    shuffled=lambda rank: DefaultSampler(ASKED, seed=1),
    # Halves, the second padded at its front: mmengine would lose the last item.
    halves=lambda rank: ([0, 1, 2], [2, 3, 4])[rank],
    all_in_one=lambda rank: ([4, 3, 2, 1, 0], [])[rank])


def two_processes(rank, port, queue, folder):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo', rank=rank, world_size=2)
    os.chdir(folder)
    for name, shares in SHARES.items():
        batches = list(BatchSampler(shares(rank), 2, False))
        whole = Evaluator(Seen(collect_dir=os.path.join(folder, name)))
        queue.put((name, evaluate(batches, whole), evaluate(batches, by_parts()),
                   evaluate(batches, by_parts(ends=(1, 4, 5)))))
    dist.destroy_process_group()


@pytest.mark.filterwarnings('ignore:Seen got empty')
def test_two_processes(tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    queue = mp.get_context('fork').SimpleQueue()  # as quick as no new interpreter can be
    mp.start_processes(two_processes, (port, queue, str(tmp_path)), nprocs=2, start_method='fork')
    for _ in range(2 * len(SHARES)):
        name, whole, parts, three = queue.get()
        assert whole == {'seen/all': WHOLE} and parts == BY_PARTS, name
        assert three == {'a/seen/all': WHOLE[:1], 'b/seen/all': WHOLE[1:4],
                         'c/seen/all': WHOLE[4:]}, name


def test_each_part_of_a_test_has_the_numbers_of_that_part_alone(tiny_config):
    config = copy.deepcopy(tiny_config)
    kept, rewarded = config.test_evaluator
    discrimination = dict(type='DiscriminationMetric',
                          discriminator=rewarded.rewards.discriminative.discriminator)
    metrics = [kept, kept, rewarded, discrimination, dict(type='RefSegMetric', prefix='refseg')]
    config.test_evaluator = metrics[1:]
    alone = Runner.from_cfg(config).test()

    config = tiny_config
    one = config.test_dataloader.dataset
    config.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[one] * 5)
    config.test_evaluator = dict(type='MultiDatasetsEvaluator', dataset_prefixes=list('abcde'),
                                 metrics=metrics)
    runner = Runner.from_cfg(config)
    dump = os.path.join(config.work_dir, 'dump.pkl')
    runner.test_evaluator.metrics.append(DumpDetResults(dump))  # as mmdet's tools/test.py
    parts = {name: value for name, value in runner.test().items() if 'time' not in name}
    assert {name[0] for name in parts} == set('abcde')
    assert all(value == pytest.approx(alone[name[2:]]) for name, value in parts.items())
    assert type(runner.test_evaluator) is MultiDatasetsEvaluator  # as it was
    rows = [list(read_jsonl(os.path.join(runner.log_dir, f'{part}_reasonseg.jsonl')))
            for part in 'ab']
    assert rows[0] == rows[1] and [row['index'] for row in rows[0]] == list(range(6))
    with open(dump, 'rb') as file:
        assert [sample['sample_idx'] for sample in pickle.load(file)] == [*range(6)] * 5
