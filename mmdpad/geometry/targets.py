# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Targets of the geometric reward: a tight box and two points inside, from a mask."""

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
        ValueError: The mask is empty or has another form.
    """
    _check(mask)
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float32)


def covered_pixels(boxes: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """The pixels that mmdet's boxes cover, also in part.

    Args:
        boxes: K boxes (x1, y1, x2, y2); a pixel spans from its index to the next, so a box around
            the first pixel ends at 1.
        height, width: Of the image.

    Returns:
        (K, 4) float32 XYXY, both ends inclusive as of :func:`box_from_mask`, within the image.
    """
    corners = np.array(boxes, np.float64).reshape(-1, 2, 2)
    last = np.array([width - 1, height - 1])
    first = np.clip(np.floor(corners[:, 0]), 0, last)
    end = np.clip(np.ceil(corners[:, 1]) - 1, first, last)
    return np.concatenate([first, end], axis=1).astype(np.float32)


def points_from_mask(mask: np.ndarray) -> np.ndarray:
    """Two points that describe a mask: its deepest pixel, and the deepest far from that one.

    Depth is the Euclidean distance to the nearest pixel outside of the mask (distance transform).
    As in the published data, what lies outside of the image is not known and therefore no
    background: an object cut by the image's border is deep there. Only a mask that fills the
    whole image is measured from the border. Point 1 is the deepest pixel (the center of the
    largest inscribed circle); point 2 the deepest among the pixels whose distance to point 1 is
    above the median of these distances over the mask. Where there is none (a single pixel), both
    are the same. Of equally deep pixels the topmost, then the leftmost is taken.

    Args:
        mask: (H, W) bool, at least one pixel set.

    Returns:
        (2, 2) float32, (x, y) of point 1 and point 2, indices of pixels of the mask.

    Raises:
        ValueError: The mask is empty or has another form.
    """
    _check(mask)
    x_min, y_min, x_max, y_max = box_from_mask(mask).astype(int)
    # A margin of one pixel around the box, where the image has it, keeps every distance exact.
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
    """Squared distance of each pixel to the nearest one outside of the mask; 0 outside.

    Squares are whole numbers, so rounding them makes equal depths equal again (OpenCV's float32
    distances differ in the last digit).
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
        raise ValueError('`mask` should have at least one pixel, but is empty; remove the item '
                         'or correct its annotation')
