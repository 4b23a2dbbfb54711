# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The base of all data sets of questions: complete checks, and a reproducible draw."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from mmdpad.registry import DATASETS, is_kind

from .difficulty import check_difficulty, keep_by_difficulty
from .errors import SHOWN, DatasetError, collecting, show_names
from .transforms.probing import pixel_limit
from .wrappers import change_parts

ON_BAD_ENTRY = ('error', 'skip')


class ReasoningDataset(BaseDataset, ABC):
    """A data set whose items are questions about images.

    A subclass reads its files in :meth:`read_items`. Building the data set reads all of them and
    lists every problem in one :class:`DatasetError`, so that no run starts on an incomplete data
    set; ``tools/analysis_tools/check_dataset.py`` prints the same list.

    Before the pipeline, an item has the keys ``img_id``, ``img_path``, ``texts`` (all raw texts),
    ``text_index``, ``question`` (the raw text that is asked) and ``is_sentence``, and
    ``num_targets`` if that may differ from 1. ``task`` names the task of the question.

    An annotation may mark no target, as some of ReasonSeg's published ones do. If questions may
    have no target (``several_objects``), it is an ordinary item. Otherwise mmengine's ``test_mode``
    decides: evaluation keeps the item, with ``empty_target=True``, and scores it by the protocol's
    rule for an empty union (:func:`mmdpad.geometry.mask_iou.mask_iou`); training leaves it out
    before items are drawn, and logs how many there were. ``no_target`` lists the names of these
    annotations. If any were left out, every item has their number as ``left_out``, so that metrics
    refuse the data set.

    Args:
        num_samples: Number of items to draw if there are more; None takes all.
        sample_seed: Seed of the draw, see :func:`draw_items`. The published recipe draws 3,000
            with seed 9.
        several_objects: A question may mean any number of objects, or none. Otherwise each item
            must have one target, or none that is marked.
        task: Name of the questions' task, one of ``model.tasks``, for items that do not have their
            own ``task``; None for the model's first.
        test_mode: Whether the data set is for evaluation, see above; the loops of this package set
            it (:func:`for_evaluation`).
        difficulty: ``file``, written by ``mmdpad run estimate_difficulty``, and the smallest and
            largest pass rate (``min``, ``max``) of the drawn items to keep; None keeps all. Ignored
            if ``test_mode``.
        **kwargs: For :class:`mmengine.dataset.BaseDataset`, ``pipeline`` above all.
    """

    METAINFO: dict = dict(classes=('object', ), ignore_regions=None)
    no_target: tuple[str, ...] = ()
    on_bad_entry = 'error'

    def __init__(self, num_samples: int | None = None, sample_seed: int = 9,
                 several_objects: bool = False, test_mode: bool = False,
                 task: str | None = None, difficulty: dict | None = None, **kwargs: Any) -> None:
        if num_samples is not None and num_samples < 1:
            raise ValueError('`num_samples` should be a positive integer, or None for all items, '
                             f'but got {num_samples}')
        self.num_samples = num_samples
        self.sample_seed = sample_seed
        self.several_objects = several_objects
        self.task = task
        if difficulty is not None:
            check_difficulty(difficulty)
        self.difficulty = None if test_mode else difficulty
        super().__init__(test_mode=test_mode, **kwargs)

    @property
    def max_pixels(self) -> int:
        """The pipeline's limit on the pixels of an image."""
        return pixel_limit(self.pipeline)

    @abstractmethod
    def read_items(self) -> Iterator[dict | DatasetError]:
        """Yield every item, or the problem with it, in an order that is the same on all machines.
        Raise a problem that prevents reading the others. (With ``on_bad_entry='skip'`` each problem
        that is yielded is counted as one entry, see :meth:`DatasetError.of_entry`.)"""

    @property
    def where(self) -> str:
        """The name of the data set in messages."""
        return str(self.data_root)

    def load_data_list(self) -> list[dict]:
        """Read and check everything, then draw the items.

        Raises:
            DatasetError: Lists every problem, or says that there are no items.
        """
        items: list[dict] = []
        no_target: list[str] = []
        problems: list[DatasetError] = []
        fatal: list[DatasetError] = []
        with collecting(fatal):
            for found in self.read_items():
                if isinstance(found, DatasetError):
                    problems.append(found)
                elif found.get('num_targets', 1) == 1 or self.several_objects:
                    items.append(found)
                elif found['num_targets']:
                    problems.append(_several_targets(found))
                else:
                    no_target.append(str(found.get('ann_path', found['img_path'])))
                    items += [dict(found, empty_target=True)] * self.test_mode
        if not items and not problems + fatal:
            fatal.append(DatasetError(
                f'{self.where} has no items with a target, but {len(no_target)} that mark none; '
                'annotate them' if no_target else f'{self.where} has no items; download the data '
                'or correct the path or split', 'empty split'))
        if fatal:
            raise DatasetError.listing(self.where, problems + fatal)
        self.leave_out(problems, items)
        self.no_target = tuple(dict.fromkeys(no_target))
        if no_target and not self.test_mode:
            items = [dict(item, left_out=len(no_target)) for item in items]
            print_log(f'{len(no_target)} item(s) of {self.where} mark no target and are left out '
                      f'of training: {show_names(self.no_target)}', logger='current',
                      level=logging.WARNING)
        if self.task is not None:
            items = [dict(task=self.task) | item for item in items]
        items = draw_items(items, self.num_samples, self.sample_seed)
        if self.difficulty is not None:
            items = keep_by_difficulty(items, self.difficulty, self.where)
        return items

    def leave_out(self, problems: Sequence[DatasetError], items: Sequence[dict]) -> None:
        """Raise the problems of entries, or, with ``on_bad_entry='skip'`` and if there are other
        ``items``, log them and count them in ``bad_entries``.

        Raises:
            DatasetError: Lists every problem.
        """
        if not problems:
            return
        if self.on_bad_entry == 'error' or not items:
            raise DatasetError.listing(self.where, problems)
        counts = Counter(problem.problems[0].kind for problem in problems)
        self.bad_entries = dict(counts + Counter(getattr(self, 'bad_entries', {})))
        print_log(f'{len(problems)} bad entries are left out of {self.where}, as '
                  f'`on_bad_entry` says: '
                  + ', '.join(f'{kind} ({count})' for kind, count in counts.items())
                  + ''.join(f'\n  - {problem}' for problem in problems[:SHOWN])
                  + (f'\n  ... and {len(problems) - SHOWN} more' * (len(problems) > SHOWN)),
                  logger='current', level=logging.WARNING)


def check_on_bad_entry(on_bad_entry: str) -> str:
    """Check and return the argument ``on_bad_entry`` of a data set.

    Raises:
        ValueError: It is not one of ``ON_BAD_ENTRY``.
    """
    if on_bad_entry not in ON_BAD_ENTRY:
        raise ValueError(f'`on_bad_entry` should be one of {ON_BAD_ENTRY}, but got '
                         f'{on_bad_entry!r}')
    return on_bad_entry


def draw_items(items: list[dict], number: int | None, seed: int) -> list[dict]:
    """Draw the first ``number`` of ``numpy.random.default_rng(seed).permutation(len(items))``, in
    the order of ``items``; all items if there are no more or ``number`` is None.

    These are the items of the published loader, ``datasets.Dataset.shuffle(seed).select(...)``, and
    the same ones on every machine.
    """
    if number is None or number >= len(items):
        return items
    drawn = np.random.default_rng(seed).permutation(len(items))[:number]
    return [items[i] for i in sorted(drawn)]


def for_evaluation(dataset: Any) -> Any:
    """The config of a data set with ``test_mode=True``, unless it is set already, for every
    :class:`ReasoningDataset` in it, however wrapped. Anything but a config is returned as is."""
    def change(config: Mapping[str, Any]) -> Mapping[str, Any]:
        if 'test_mode' in config or not is_kind(config, ReasoningDataset, DATASETS):
            return config
        return dict(config, test_mode=True)

    return change_parts(dataset, change)


def _several_targets(item: dict) -> DatasetError:
    return DatasetError(
        f'{item["img_path"]}, {item["question"]!r} should have one target, but has '
        f'{item["num_targets"]}; set `several_objects=True` here and in the model, or remove it',
        'not one target')
