# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Gives metrics their results in the order of the data set, whatever the sampler's order."""

from __future__ import annotations

import logging
import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from mmengine.dist import all_gather_object, barrier, collect_results, get_dist_info
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader, IterableDataset

from mmdpad.datasets.samplers import LengthSortedSampler
from mmdpad.evaluation.metrics.result_file import ResultFileMetric

NO_RESULT = ()
"""The result of a metric for a sample of another data set. (mmengine drops None as it collects
results.)"""


class RecordedBatches:
    """A batch sampler that records the batches of its current pass.

    Args:
        batch_sampler: The batch sampler that draws them.

    Attributes:
        given: Indices in the data set, one list per batch. Workers prefetch, so there may be more
            batches here than the loader has returned.
    """

    def __init__(self, batch_sampler: Any) -> None:
        self.batch_sampler = batch_sampler
        self.given: list[list[int]] = []

    @property
    def sampler(self) -> Any:
        """The inner sampler, which hooks look for."""
        return getattr(self.batch_sampler, 'sampler', None)

    def __iter__(self) -> Iterator[list[int]]:
        given = self.given = []
        for batch in self.batch_sampler:
            given.append(list(batch))
            yield given[-1]

    def __len__(self) -> int:
        return len(self.batch_sampler)


def record_batches(dataloader: DataLoader) -> RecordedBatches | None:
    """Let a loader record which items are in its batches, and let :class:`LengthSortedSampler` sort
    them. Returns None for a loader without batches of indices."""
    batches = dataloader.batch_sampler
    if batches is None or isinstance(dataloader.dataset, IterableDataset):
        return None
    if isinstance(batches, RecordedBatches):
        return batches
    if isinstance(sampler := getattr(batches, 'sampler', None), LengthSortedSampler):
        sampler.longest_first = True
    recorded = RecordedBatches(batches)
    vars(dataloader)['batch_sampler'] = recorded  # torch rejects an ordinary assignment
    return recorded


class InDatasetOrder(Evaluator):
    """An evaluator that gives its metrics one result for each item, in the order of the data set.

    mmengine expects that order, and everything that reads results by position needs it, such as
    :class:`mmdet.evaluation.MultiDatasetsEvaluator` and files of predictions. Repeated items are
    dropped (samplers pad so that all processes have equally many). The results of a metric that
    does not keep exactly one per sample stay in the order of the sampler.

    ``MultiDatasetsEvaluator`` has one metric for each data set (or several, see
    :class:`mmdpad.evaluation.MeanDatasetsEvaluator`), which gets the samples of that data
    set only; so the data sets may have different tasks. Any further metrics, such as mmdet's
    ``DumpDetResults`` that ``tools/test.py --out`` adds, are evaluated over all data sets.

    Args:
        evaluator: The evaluator that does the work.
        batches: The batches of the loader whose samples it gets, all of them and in that order.

    Raises:
        ValueError: The parts of ``MultiDatasetsEvaluator`` are not those of the data set, or one of
            its metrics does not keep one result for each sample.
    """

    def __init__(self, evaluator: Evaluator, batches: RecordedBatches) -> None:
        self.evaluator = evaluator
        self.batches = batches
        self._parts: list[str] | None = getattr(evaluator, 'dataset_prefixes', None)
        if self._parts is not None:
            self._hand_over_parts(self._parts)
        self._processed = 0
        self._items: dict[int, list[int] | None] = {}  # of the results, by metric id

    def _hand_over_parts(self, names: Sequence[str]) -> None:
        """Check that there is a metric for each data set, and give each its metainfo, which mmdet
        does only after the last batch, and the name of its data set."""
        meta = self.dataset_meta
        parts = meta if isinstance(meta, Sequence) else [meta or {}] * len(names)
        sizes = parts[0].get('cumulative_sizes')
        different = list(dict.fromkeys(names))
        if sizes is None:
            raise ValueError("MultiDatasetsEvaluator needs mmdet's ConcatDataset, whose metainfo "
                             'has `cumulative_sizes`, without `lazy_init`; use that one, '
                             'or another evaluator')
        if len(sizes) != len(different) or len(names) > len(self.metrics):
            raise ValueError(f'MultiDatasetsEvaluator should have a prefix and a metric for each '
                             f'of the {len(sizes)} data sets, but got {len(different)} '
                             f'`dataset_prefixes` and {len(self.metrics)} `metrics`; set one '
                             f'of each for every data set')
        self._sizes = list(sizes)
        self._owners = [different.index(name) for name in names]
        for metric, owner in zip(self.metrics, self._owners, strict=False):
            metric.dataset_meta = parts[owner]
            if isinstance(metric, ResultFileMetric):
                metric.dataset = different[owner]

    @property
    def metrics(self) -> list[BaseMetric]:
        """The metrics of the evaluator."""
        return self.evaluator.metrics

    @property
    def dataset_meta(self) -> Any:
        """The metainfo of the data set, which the evaluator has."""
        return self.evaluator.dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: Any) -> None:
        self.evaluator.dataset_meta = dataset_meta

    def process(self, data_samples: Sequence[Any], data_batch: Any = None) -> None:
        """Score the next batch, and record which items the new results belong to."""
        before = [len(metric.results) for metric in self.metrics]
        batch = self.batches.given[self._processed]
        self._processed += 1
        if self._parts is None:
            self.evaluator.process(data_samples, data_batch)
        else:
            self._process_parts(data_samples, data_batch, batch)
        for metric, count in zip(self.metrics, before, strict=True):
            items = self._items.setdefault(id(metric), [])
            if items is None or len(metric.results) != count + len(batch):
                self._items[id(metric)] = None
            else:
                items += batch

    def _process_parts(self, data_samples: Sequence[Any], data_batch: Any,
                       batch: Sequence[int]) -> None:
        """Let the metric of each data set score its own samples. For other samples it gets
        :data:`NO_RESULT`, since mmdet cuts the results of all data sets apart by position."""
        samples = [sample.to_dict() if isinstance(sample, BaseDataElement) else sample
                   for sample in data_samples]
        parts = [bisect_right(self._sizes, item) for item in batch]
        for metric, owner in zip_longest(self.metrics, self._owners):
            rows = [row for row, part in enumerate(parts) if owner in (part, None)]
            before = len(metric.results)
            if rows:
                metric.process(select_rows(data_batch, rows, len(samples)),
                               [samples[row] for row in rows])
            own = metric.results[before:]
            if len(own) == len(rows):
                placed = dict(zip(rows, own, strict=True))
                metric.results[before:] = [placed.get(row, NO_RESULT)
                                            for row in range(len(samples))]
            elif owner is not None:
                raise ValueError(
                    f'A metric of MultiDatasetsEvaluator should keep one result for each sample, '
                    f'but {type(metric).__name__} (data set {owner + 1} of {len(self._sizes)}) '
                    f'kept {len(own)} for {len(rows)}; evaluate that data set by itself')

    def evaluate(self, size: int) -> dict[str, float]:
        """Compute the metrics over a data set of ``size`` items.

        Raises:
            ValueError: The metrics belong to several data sets, and some items were not evaluated.
        """
        self._check_all_are_there(size)
        for metric in self.metrics:
            _restore(metric, self._items.get(id(metric), []), size)
        values = self.evaluator.evaluate(size)
        for metric in self.metrics[len(self._parts):] if self._parts is not None else ():
            values.update(metric.evaluate(size))
        return values

    def _check_all_are_there(self, size: int) -> None:
        seen = {item for share in all_gather_object(self.batches.given) for batch in share
                for item in batch}
        if len(seen) == size:
            return
        message = f'{len(seen)} of the {size} items of the data set were evaluated'
        if self._parts is not None:
            raise ValueError(f'{message}, but MultiDatasetsEvaluator needs all, to know which '
                             'data set a result belongs to; use a sampler that leaves none out, '
                             'and no `drop_last`')
        print_log(message, logger='current', level=logging.WARNING)


def select_rows(batch: Any, rows: Sequence[int], size: int) -> Any:
    """Some rows of a batch of a data loader: everything in it, at any depth of dicts, that has
    ``size`` rows."""
    if isinstance(batch, Mapping):
        return {name: select_rows(part, rows, size) for name, part in batch.items()}
    if isinstance(batch, torch.Tensor) and batch.shape[:1] == (size, ):
        return batch[list(rows)]
    if isinstance(batch, list | tuple) and len(batch) == size:
        return [batch[row] for row in rows]
    return batch


def _restore(metric: BaseMetric, items: list[int] | None, size: int) -> None:
    """Reorder the results of a metric on all processes. mmengine then merges them, taking one from
    each process in turn, into the order of the data set.

    Args:
        metric: The metric, with one result for each of ``items``.
        items: Indices of the items in the data set; None if they are unknown.
        size: The number of items in the data set.
    """
    rank, processes = get_dist_info()
    known = all_gather_object(items)
    if items is None or any(share is None for share in known):
        return
    if all(set(range(r, size, processes)) <= set(share) for r, share in enumerate(known)):
        own = dict(zip(items, metric.results, strict=True))
        metric.results[:] = [own[item] for item in range(rank, size, processes)]
        return
    # Some process has items that mmengine's sampler gives to another: the first gets all.
    pairs = collect_results(list(zip(items, metric.results, strict=True)), sys.maxsize,
                            metric.collect_device, getattr(metric, 'collect_dir', None))
    barrier()  # the exchange folder is removed before the metric uses one
    metric.results[:] = [] if pairs is None else [
        result for _, result in sorted(dict(pairs).items(), key=lambda pair: pair[0])]
