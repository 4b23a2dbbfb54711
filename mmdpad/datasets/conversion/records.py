# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The unit of a conversion, independent of formats: one target and the questions about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose

from mmdpad.registry import DATASETS, TRANSFORMS
from mmdpad.utils import KeyValueError, override, unique_name
from mmdpad.utils.argument_types import find_wrong_types

from ..annotation_fields import ANSWER_KEYS
from ..errors import DatasetError
from ..reasoning_dataset import ReasoningDataset
from .formats import source_config

EXTRAS = ('other_boxes', *ANSWER_KEYS)
"""Fields that a record has in ``extras`` if they are known."""
OPTIONAL_FIELDS = ('ignore', 'is_sentence', *EXTRAS)
"""Fields that only some records have; not every format can store them."""


@dataclass(frozen=True)
class Record:
    """One target in one image, and the questions about it.

    ``image`` is a file, or the content of one. ``is_sentence`` is None if unknown. ``masks``
    (K, H, W) bool has one mask per object, K may be 0; ``ignore`` (H, W) bool marks what the
    evaluation leaves out. Both are in the original frame: the image's pixels after its EXIF
    rotation. ``extras`` has those of ``EXTRAS`` that are known. ``where`` names it in messages.
    """
    id: str
    where: str
    image: Path | bytes
    texts: tuple[str, ...]
    is_sentence: bool | None
    masks: np.ndarray
    ignore: np.ndarray
    extras: dict[str, Any] = field(default_factory=dict)

    def only_mask(self, target: str) -> np.ndarray:
        """The mask (H, W) of the only object, all background if there is none.

        Raises:
            DatasetError: There are several; ``target`` is the format that does not allow this.
        """
        if len(self.masks) > 1:
            raise DatasetError(
                f'{self.where} should have one object, since {target} has one mask per image, but '
                f'has {len(self.masks)}; choose jsonl or coco, or remove it', 'not one target')
        return np.asarray(self.masks.any(axis=0))


def read_records(dataset: ReasoningDataset, load: list[dict]) -> Iterator[Record | DatasetError]:
    """Yield the records of a data set in order, or the problem with a record.

    Images are decoded, so a broken image is found here.

    Args:
        dataset: Built without a pipeline. Items that each ask one of the same ``texts`` become one
            record.
        load: Transforms that add ``gt_masks`` and, if any, ``ignore_mask`` to an item.
    """
    pipeline = Compose([TRANSFORMS.build(step) for step in load])
    ids: set[str] = set()
    for i in range(len(dataset)):
        if dataset.get_data_info(i)['text_index'] == 0:
            try:
                yield _make_record(dataset[i], pipeline, ids)
            except DatasetError as error:
                yield error


def _make_record(item: dict, pipeline: Compose, ids: set[str]) -> Record:
    loaded = pipeline(dict(item))
    masks = loaded['gt_masks']
    return Record(
        id=unique_name(str(item['img_id']), ids),
        where=str(item.get('ann_path', item['img_path'])),
        image=item['img_bytes'] if 'img_bytes' in item else Path(item['img_path']),
        texts=tuple(item['texts']),
        is_sentence=item['is_sentence'],
        masks=masks,
        ignore=loaded.get('ignore_mask', np.zeros(masks.shape[1:], bool)),
        extras={key: item[key] for key in EXTRAS if key in item})


def open_sources(kind: str, path: str, splits: Sequence[str],
                 options: dict[str, Any]) -> dict[str, ReasoningDataset]:
    """Build the data set of each split, for :func:`read_records`.

    Args:
        kind: One of ``SOURCES``.
        path: Folder or file.
        splits: Names of splits.
        options: Entries that override the data sets' configs, with dots for nested ones.

    Raises:
        DatasetError: Lists every problem with the files.
        KeyValueError: The data set does not have such an option.
    """
    sources: dict[str, ReasoningDataset] = {}
    problems: list[DatasetError] = []
    for split in splits:
        config = Config(source_config(kind, path, split))
        override(config, dict(options, several_objects=True, pipeline=[], serialize_data=False))
        wrong = list(find_wrong_types(DATASETS.get(config.type), config, ''))
        if wrong:
            raise KeyValueError('\n'.join(wrong))
        try:
            sources[split] = DATASETS.build(config)
        except DatasetError as error:
            problems += error.problems
    if problems:
        raise DatasetError.listing(path, problems)
    return sources
