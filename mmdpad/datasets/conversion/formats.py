# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The formats of reasoning data by name, and the config that reads each."""

from __future__ import annotations

import os

# Formats with one mask per item, which may be empty even if the question asks for an object.
ONE_MASK = ('reasonseg', 'parquet')
# The data set for each format: (class, transform that loads masks, arguments from path and split).
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
# The formats that :data:`.writers.WRITERS` can write.
TARGETS = ('coco', 'jsonl', 'parquet', 'reasonseg')


def source_config(kind: str, path: str, split: str) -> dict:
    """The config of the data set for a format in ``SOURCES``, without a pipeline."""
    name, _, arguments = SOURCES[kind]
    return dict(type=name, **arguments(path, split))


def loading_steps(kind: str) -> list[dict]:
    """The transforms that load image and masks for a format in ``SOURCES``."""
    return [dict(type='LoadReasoningImage'), dict(type=SOURCES[kind][1])]
