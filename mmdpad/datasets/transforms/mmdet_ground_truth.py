# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The ground truth of an item in the forms that mmdet's metrics expect."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmdet.structures.mask import BitmapMasks

from mmdpad.geometry.masks import encode_mask


def mmdet_ground_truth(masks: np.ndarray, boxes: np.ndarray,
                       labels: np.ndarray | None = None) -> dict[str, Any]:
    """The metainfo that mmdet's ``RefSegMetric`` and ``CocoMetric`` need in a data sample.

    Boxes keep both ends inclusive, like those that the model predicts. COCO computes the width as
    x2 - x1, so for ``CocoMetric`` predictions and targets alike are one pixel smaller, and an
    object one pixel wide or high has no area: no box matches it, but its mask does.

    Args:
        masks: (K, H, W) bool, the target objects of an item; K may be 0.
        boxes: (K, 4) float, XYXY in pixels of the masks.
        labels: (K,) int; None for 0 throughout.

    Returns:
        ``gt_masks``: the union of the masks, as ``BitmapMasks`` (1, H, W); ``instances``: for each
        mask a dict with ``bbox`` (list), ``bbox_label``, ``ignore_flag`` (0) and ``mask``
        (COCO's RLE).

    Raises:
        ValueError: The arrays have another shape, type or number of objects.
    """
    labels = np.zeros(len(masks), int) if labels is None else labels
    if masks.ndim != 3 or boxes.shape != (len(masks), 4) or labels.shape != (len(masks), ):
        raise ValueError(f'`masks` should be (K, H, W), `boxes` (K, 4) and `labels` (K,), but got '
                         f'{masks.shape}, {boxes.shape} and {labels.shape}')
    union = masks.any(axis=0, keepdims=True).astype(np.uint8)
    return dict(
        gt_masks=BitmapMasks(union, *masks.shape[1:]),
        instances=[dict(bbox=box, bbox_label=label, ignore_flag=0, mask=encode_mask(mask))
                   for box, mask, label in zip(boxes.tolist(), masks, labels.tolist(),
                                               strict=True)])
