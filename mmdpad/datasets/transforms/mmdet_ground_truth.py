# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The truth about an item in the forms in which mmdet's metrics look for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmdet.structures.mask import BitmapMasks

from mmdpad.geometry.masks import encode_mask


def mmdet_ground_truth(masks: np.ndarray, boxes: np.ndarray) -> dict[str, Any]:
    """What a data sample needs as metainfo for mmdet's ``RefSegMetric`` and ``CocoMetric``.

    Boxes stay as they are, both ends inclusive, like those that the model predicts. COCO takes
    x2 - x1 for the width, so for ``CocoMetric`` a side is one pixel shorter on both sides of the
    comparison, and an object one pixel wide or high has no area: no box matches it, its mask does.

    Args:
        masks: (K, H, W) bool, the objects that an item asks for; K may be 0.
        boxes: (K, 4) float, XYXY in pixels of the masks.

    Returns:
        ``gt_masks``: the union of the masks, as ``BitmapMasks`` (1, H, W); ``instances``: for each
        mask a dict of ``bbox`` (list), ``bbox_label`` (0), ``ignore_flag`` (0) and ``mask``
        (COCO's RLE).

    Raises:
        ValueError: The arrays have another shape, type or number of objects.
    """
    if masks.ndim != 3 or boxes.shape != (len(masks), 4):
        raise ValueError(f'`masks` should be (K, H, W) and `boxes` (K, 4), but got {masks.shape} '
                         f'and {boxes.shape}')
    union = masks.any(axis=0, keepdims=True).astype(np.uint8)
    return dict(
        gt_masks=BitmapMasks(union, *masks.shape[1:]),
        instances=[dict(bbox=box, bbox_label=0, ignore_flag=0, mask=encode_mask(mask))
                   for box, mask in zip(boxes.tolist(), masks, strict=True)])
