# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The formats of reasoning data by name, and what reads them in a config."""

from __future__ import annotations

import os

# Formats with one mask an item, which may be background all over though an object is asked for.
ONE_MASK = ('reasonseg', 'parquet')
# The data sets that read each format: (class, its transform for masks, arguments from a path and
# a split).
SOURCES = {
    'reasonseg': ('ReasonSegDataset', 'LoadReasonSegMask',
                  lambda path, split: dict(data_root=path, split=split)),
    'coco': ('ReferringSegDataset', 'LoadInstanceMasks',
             lambda path, split: dict(data_root=path, ann_file='instances.json',
                                      split_file='refs.json', split=split,
                                      data_prefix=dict(img_path=''))),
    'parquet': ('SegZeroEvalDataset', 'LoadInstanceMasks',
                lambda path, split: dict(data_root=path, split=split)),
    'jsonl': ('JsonLinesDataset', 'LoadInstanceMasks',
              lambda path, split: dict(ann_file=path if os.path.isfile(path) else
                                       os.path.join(path, f'{split}.jsonl'))),
    'masks': ('MaskFolderDataset', 'LoadInstanceMasks',
              lambda path, split: dict(data_root=path)),
}
# What :data:`.writers.WRITERS` writes.
TARGETS = ('coco', 'jsonl', 'parquet', 'reasonseg')


def source_config(kind: str, path: str, split: str) -> dict:
    """The config of the data set that reads a format of ``SOURCES``, without its pipeline."""
    name, _, arguments = SOURCES[kind]
    return dict(type=name, **arguments(path, split))


def loading_steps(kind: str) -> list[dict]:
    """The transforms that load image and masks of a format of ``SOURCES``."""
    return [dict(type='LoadReasoningImage'), dict(type=SOURCES[kind][1])]
