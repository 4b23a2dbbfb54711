# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The prepared evaluation data of Seg-Zero and DPAD: tables with embedded images and masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmdpad.geometry.masks import encode_mask
from mmdpad.registry import DATASETS

from .errors import DatasetError
from .images import probe_image_bytes
from .table_dataset import TableDataset, read_image_bytes
from .tables import TableFile, import_pyarrow


@DATASETS.register_module()
class SegZeroEvalDataset(TableDataset):
    """Images with a question and a mask: the copies for evaluation.

    These are ``Ricky06662/ReasonSeg_val``, ``ReasonSeg_test``, ``refcoco_testA``,
    ``refcocoplus_testA`` and ``refcocog_test``, in the formats of :class:`TableDataset`; the split
    is ``test`` in all of them. A row has ``image``, ``text`` (the question), ``mask`` (H rows of W
    values, true or false, in pixels of the image as viewers show it), ``image_id``, ``ann_id``,
    ``img_height`` and ``img_width``.

    In these copies ReasonSeg's 'ignore' regions are part of the target and cannot be separated from
    it, so ``metainfo`` says ``ignore_regions='target'`` and metrics refuse 'exclude'. The copies do
    not say which questions are sentences, so metrics cannot report short and long ones separately.

    Every row is checked when the data set is built: its text and mask, and that the mask, the
    stated size and the image header agree. Only one row at a time is in memory; 100 one-megapixel
    rows take 1 to 2 seconds from parquet, less from Arrow. Masks are kept as run lengths, a few
    kilobytes each, in ``instances`` for :class:`LoadInstanceMasks`; an empty mask has none. An item
    also has ``ann_id``; ``img_id`` may repeat.

    Args:
        data_root: Folder of the copy.
        split: The split to read.
        **kwargs: See :class:`ReasoningDataset`.
    """

    METAINFO = dict(TableDataset.METAINFO, ignore_regions='target')
    columns = ('image', 'text', 'mask', 'image_id', 'ann_id', 'img_height', 'img_width')
    question_column = 'text'

    def __init__(self, data_root: str, split: str = 'test', **kwargs: Any) -> None:
        super().__init__(data_root, split, **kwargs)

    def check_file(self, file: TableFile) -> None:
        """Also check that masks are lists of lists of bool."""
        super().check_file(file)
        kind, types = file.schema.field('mask').type, import_pyarrow().types
        depth = 0
        while types.is_list(kind) or types.is_large_list(kind):
            kind, depth = kind.value_type, depth + 1
        if depth != 2 or not types.is_boolean(kind):
            raise DatasetError(f'`mask` of {file.path} should be lists of lists of bool, but is '
                               f'{file.schema.field("mask").type}; write masks as such lists')

    def read_row(self, row: dict[str, Any], where: str) -> dict:
        """The mask of a row, after checking all sizes."""
        mask = _read_mask(row['mask'], where)
        stated = row['img_height'].as_py(), row['img_width'].as_py()
        image = probe_image_bytes(read_image_bytes(row, where), where, self.max_pixels)
        if not mask.shape == stated == image:
            raise DatasetError(
                f'{where} should have a single size (height, width), but its image is {image}, '
                f'its mask {mask.shape}, and `img_height` and `img_width` say {stated}; correct '
                'it, or remove the row', 'wrong size')
        instances = [dict(mask=encode_mask(mask), ignore_flag=0)] * bool(mask.any())
        return dict(img_id=row['image_id'].as_py(), ann_id=row['ann_id'].as_py(),
                    num_targets=len(instances), instances=instances)


def _read_mask(mask: Any, where: str) -> np.ndarray:
    """A stored mask as a bool array (H, W).

    Args:
        mask: A pyarrow scalar, a list of lists of bool.
        where: The name of its row in messages.

    Raises:
        DatasetError: It is null, contains null, or its rows differ in length.
    """
    rows = mask.values
    lengths = [] if rows is None or rows.null_count else set(rows.value_lengths().to_pylist())
    values = rows.flatten() if len(lengths) == 1 else None
    if values is None or values.null_count:
        raise DatasetError(f'`mask` of {where} should be rows of equal length, all true or false, '
                           'but is null, contains null, or has rows of different lengths; correct '
                           'it, or remove the row', 'wrong mask')
    return values.to_numpy(zero_copy_only=False).reshape(len(rows), -1)
