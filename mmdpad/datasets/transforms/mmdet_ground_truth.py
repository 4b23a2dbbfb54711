# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The ground truth of an item in the forms that mmdet's metrics expect."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmdet.structures.mask import BitmapMasks

from mmdpad.geometry.masks import encode_mask


def mmdet_ground_truth(masks: np.ndarray, boxes: np.ndarray) -> dict[str, Any]:
    """The metainfo that mmdet's ``RefSegMetric`` and ``CocoMetric`` need in a data sample.

    Boxes keep both ends inclusive, like those that the model predicts. COCO computes the width as
    x2 - x1, so for ``CocoMetric`` predictions and targets alike are one pixel smaller, and an
    object one pixel wide or high has no area: no box matches it, but its mask does.

    Args:
        masks: (K, H, W) bool, the target objects of an item; K may be 0.
        boxes: (K, 4) float, XYXY in pixels of the masks.

    Returns:
        ``gt_masks``: the union of the masks, as ``BitmapMasks`` (1, H, W); ``instances``: for each
        mask a dict with ``bbox`` (list), ``bbox_label`` (0), ``ignore_flag`` (0) and ``mask``
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
