# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The prepared evaluation data of Seg-Zero and DPAD: tables with images and masks inside."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmdpad.geometry.masks import encode_mask
from mmdpad.registry import DATASETS

from .errors import DatasetError
from .table_dataset import TableDataset, read_image_bytes
from .tables import TableFile, import_pyarrow
from .transforms.images import probe_image_bytes


@DATASETS.register_module()
class SegZeroEvalDataset(TableDataset):
    """Images with a question and a mask: the copies to evaluate on.

    These are ``Ricky06662/ReasonSeg_val``, ``ReasonSeg_test``, ``refcoco_testA``,
    ``refcocoplus_testA`` and ``refcocog_test``, in the forms of :class:`TableDataset`; the split is
    ``test`` in all of them. A row has ``image``, ``text`` (the question), ``mask`` (H rows of W
    values, true or false, in the pixels of the image as viewers show it), ``image_id``, ``ann_id``,
    ``img_height`` and ``img_width``.

    ReasonSeg's 'ignore' regions are part of the target in these copies and cannot be told from it,
    so ``metainfo`` says ``ignore_regions='target'`` and metrics refuse 'exclude'. Nor do they say
    which questions are sentences, so metrics have no short and long ones apart.

    Every row is checked when the data set is built: its text, its mask, and that mask, sizes and
    image (by its header) agree. One row at a time is in memory; 100 rows of a megapixel take 1 to
    2 seconds from parquet, less from Arrow. Of masks their run lengths are kept, some kilobytes
    each: ``instances``, as :class:`LoadInstanceMasks` reads it; none where no pixel is marked. An
    item also has ``ann_id``; ``img_id`` may repeat.

    Args:
        data_root: Folder of the copy.
        split: Which split of it.
        **kwargs: See :class:`ReasoningDataset`.
    """

    METAINFO = dict(TableDataset.METAINFO, ignore_regions='target')
    columns = ('image', 'text', 'mask', 'image_id', 'ann_id', 'img_height', 'img_width')
    question_column = 'text'

    def __init__(self, data_root: str, split: str = 'test', **kwargs: Any) -> None:
        super().__init__(data_root, split, **kwargs)

    def check_file(self, file: TableFile) -> None:
        """Also that masks are lists of lists of bool."""
        super().check_file(file)
        kind, types = file.schema.field('mask').type, import_pyarrow().types
        depth = 0
        while types.is_list(kind) or types.is_large_list(kind):
            kind, depth = kind.value_type, depth + 1
        if depth != 2 or not types.is_boolean(kind):
            raise DatasetError(f'`mask` of {file.path} should be lists of lists of bool, but is '
                               f'{file.schema.field("mask").type}; write masks so')

    def read_row(self, row: dict[str, Any], where: str) -> dict:
        """Its mask, after a look at all sizes."""
        mask = _read_mask(row['mask'], where)
        stated = row['img_height'].as_py(), row['img_width'].as_py()
        image = probe_image_bytes(read_image_bytes(row, where), where, self.max_pixels)
        if not mask.shape == stated == image:
            raise DatasetError(
                f'{where} should have one size (height, width), but its image is {image}, its '
                f'mask {mask.shape}, and `img_height` and `img_width` say {stated}; correct it, or '
                'remove the row', 'wrong size')
        instances = [dict(mask=encode_mask(mask), ignore_flag=0)] * bool(mask.any())
        return dict(img_id=row['image_id'].as_py(), ann_id=row['ann_id'].as_py(),
                    num_targets=len(instances), instances=instances)


def _read_mask(mask: Any, where: str) -> np.ndarray:
    """A stored mask as a bool array (H, W).

    Args:
        mask: pyarrow's scalar, a list of lists of bool.
        where: What messages call its row.

    Raises:
        DatasetError: There is none, or its rows differ in length.
    """
    rows = mask.values
    lengths = [] if rows is None or rows.null_count else set(rows.value_lengths().to_pylist())
    values = rows.flatten() if len(lengths) == 1 else None
    if values is None or values.null_count:
        raise DatasetError(f'`mask` of {where} should be rows of one length, all true or false, '
                           'but is null, holds null, or has rows of other lengths; correct it, or '
                           'remove the row', 'wrong mask')
    return values.to_numpy(zero_copy_only=False).reshape(len(rows), -1)
