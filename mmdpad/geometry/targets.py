# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Targets of the geometric reward: a tight box and two points inside it, from a mask."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np


def box_from_mask(mask: np.ndarray) -> np.ndarray:
    """The tight box of a mask.

    Args:
        mask: (H, W) bool, at least one pixel set.

    Returns:
        (4,) float32 [x_min, y_min, x_max, y_max] in the mask's pixels. Both ends are indices of
        pixels that belong to the mask (inclusive, as in the published data), so a single pixel
        gives a box of width and height 0.

    Raises:
        ValueError: The mask is empty, not 2-D or not bool.
    """
    _check(mask)
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float32)


def covered_pixels(boxes: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """The pixels that mmdet's boxes cover at least in part.

    Args:
        boxes: K boxes (x1, y1, x2, y2); a pixel spans from its index to the next, so a box around
            the first pixel ends at 1.
        height, width: Of the image.

    Returns:
        (K, 4) float32 XYXY within the image, both ends inclusive as in :func:`box_from_mask`.
    """
    corners = np.array(boxes, np.float64).reshape(-1, 2, 2)
    last = np.array([width - 1, height - 1])
    first = np.clip(np.floor(corners[:, 0]), 0, last)
    end = np.clip(np.ceil(corners[:, 1]) - 1, first, last)
    return np.concatenate([first, end], axis=1).astype(np.float32)


def points_from_mask(mask: np.ndarray) -> np.ndarray:
    """Two points that describe a mask: its deepest pixel, and the deepest one far from it.

    Depth is the Euclidean distance to the nearest pixel outside the mask (distance transform). As
    in the published data, nothing beyond the image counts as background, so an object cut off by
    the border is deep there. Only for a mask that fills the entire image is depth measured from
    the border. Point 1 is the deepest pixel (the center of the largest inscribed circle). Point 2
    is the deepest among the pixels whose distance to point 1 is above the median over the mask. If
    there is none (a single pixel), both points are the same. Ties go to the topmost pixel, then
    the leftmost.

    Args:
        mask: (H, W) bool, at least one pixel set.

    Returns:
        (2, 2) float32, (x, y) of point 1 and point 2, as indices of pixels in the mask.

    Raises:
        ValueError: The mask is empty, not 2-D or not bool.
    """
    _check(mask)
    x_min, y_min, x_max, y_max = box_from_mask(mask).astype(int)
    # A margin of one pixel around the box, if the image has it, keeps every distance exact.
    left, top = max(x_min - 1, 0), max(y_min - 1, 0)
    depth = _squared_depth(mask[top:y_max + 2, left:x_max + 2])
    ys, xs = np.nonzero(depth)
    depths = depth[ys, xs]
    first = depths.argmax()
    distance = np.hypot(xs - xs[first], ys - ys[first])
    far = np.flatnonzero(distance > np.median(distance))
    second = far[depths[far].argmax()] if far.size else first
    picked = [first, second]
    return np.stack([xs[picked] + left, ys[picked] + top], axis=1).astype(np.float32)


def _squared_depth(mask: np.ndarray) -> np.ndarray:
    """Squared distance of each pixel to the nearest one outside the mask; 0 outside.

    Squares are integers, so rounding makes equal depths equal again. (OpenCV's float32 distances
    differ in the last digit.)
    """
    if mask.all():
        return _squared_depth(np.pad(mask, 1))[1:-1, 1:-1]
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.rint(depth.astype(np.float64)**2).astype(np.int64)


def _check(mask: np.ndarray) -> None:
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(f'`mask` should be a bool array (H, W), but got {mask.dtype} '
                         f'{mask.shape}')
    if not mask.any():
        raise ValueError('`mask` should mark at least one pixel, but is empty; remove the item '
                         'or correct its annotation')
