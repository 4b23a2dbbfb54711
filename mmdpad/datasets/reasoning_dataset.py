# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What all data sets of questions share: nothing starts on half of one, and a fixed draw."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset

from .errors import DatasetError, collecting
from .transforms.probing import pixel_limit


class ReasoningDataset(BaseDataset, ABC):
    """A data set whose items are questions about images.

    A subclass reads its files in :meth:`read_items`. When the data set is built, all of them are
    read, and everything that is wrong is listed in one :class:`DatasetError`, so that no run
    starts on half a data set; ``tools/analysis_tools/check_dataset.py`` prints the same list.

    An item before the pipeline has the keys ``img_id``, ``img_path``, ``texts`` (all raw texts),
    ``text_index``, ``question`` (the raw text that is asked) and ``is_sentence``, and
    ``num_targets`` where that may be other than 1.

    Args:
        num_samples: Number of items to draw where there are more; None takes all.
        sample_seed: Seed of the draw, see :func:`draw_items`. The published recipe draws 3,000
            with seed 9.
        several_objects: A question may mean any number of objects, or none; without it each item
            has to have one target.
        **kwargs: For :class:`mmengine.dataset.BaseDataset`, ``pipeline`` above all.
    """

    METAINFO = dict(classes=('object', ))

    def __init__(self, num_samples: int | None = None, sample_seed: int = 9,
                 several_objects: bool = False, **kwargs: Any) -> None:
        if num_samples is not None and num_samples < 1:
            raise ValueError('`num_samples` should be a positive integer, or None for all items, '
                             f'but got {num_samples}')
        self.num_samples = num_samples
        self.sample_seed = sample_seed
        self.several_objects = several_objects
        super().__init__(**kwargs)

    @property
    def max_pixels(self) -> int:
        """Of an image: the limit of the pipeline."""
        return pixel_limit(self.pipeline)

    @abstractmethod
    def read_items(self) -> Iterator[dict | DatasetError]:
        """Yield every item, in an order that is the same on all machines, or what is wrong with
        it; raise what keeps all others from being read."""

    @property
    def where(self) -> str:
        """The name of the data set in messages."""
        return str(self.data_root)

    def load_data_list(self) -> list[dict]:
        """Read and check everything, and draw.

        Raises:
            DatasetError: All problems, or there is no item.
        """
        items: list[dict] = []
        problems: list[DatasetError] = []
        with collecting(problems):
            for found in self.read_items():
                if isinstance(found, DatasetError):
                    problems.append(found)
                elif found.get('num_targets', 1) != 1 and not self.several_objects:
                    problems.append(_not_one_target(found))
                else:
                    items.append(found)
        if not items and not problems:
            problems.append(DatasetError(f'{self.where} holds no items; download the data or '
                                         'correct the path or split', 'empty split'))
        if problems:
            raise DatasetError.listing(self.where, problems)
        return draw_items(items, self.num_samples, self.sample_seed)


def draw_items(items: list[dict], number: int | None, seed: int) -> list[dict]:
    """The first ``number`` of ``numpy.random.default_rng(seed).permutation(len(items))``, in the
    order of ``items``; all where there are no more or ``number`` is None.

    Items drawn are those of the published loader, ``datasets.Dataset.shuffle(seed).select(...)``,
    the same on every machine.
    """
    if number is None or number >= len(items):
        return items
    drawn = np.random.default_rng(seed).permutation(len(items))[:number]
    return [items[i] for i in sorted(drawn)]


def find_duplicates(ids: Iterable[Hashable], name: str, where: str) -> Iterator[DatasetError]:
    """Yield a problem for each id that is there more than once; ``name`` says what has it."""
    for value, count in Counter(ids).items():
        if count > 1:
            yield DatasetError(f'{where} has {name} {value!r} {count} times; ids should differ: '
                               'rename or remove all but one', 'duplicate id')


def _not_one_target(item: dict) -> DatasetError:
    return DatasetError(
        f'{item["img_path"]}, {item["question"]!r} should have one target, but has '
        f'{item["num_targets"]}; set `several_objects=True` here and in the model, or remove it',
        'not one target')
