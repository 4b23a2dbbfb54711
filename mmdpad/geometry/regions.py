# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Crop a box from an image, or mask it out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def crop(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Crop a box from an image; the result is a view of its pixels.

    Left and top are rounded down, right and bottom up, so that the crop keeps every pixel that the
    box touches. The box is clipped to the image; at least one pixel remains.

    Args:
        image: uint8 (h, w, 3).
        box: XYXY in pixels; x2 and y2 are outer edges (column ceil(x2) - 1 is the last one kept).
            A target box ends at the last pixels of the object, so the crop loses its last row and
            column, as in the published code.

    Raises:
        ValueError: The image is not uint8 (h, w, 3) or the box is not finite.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f'Images should be uint8 arrays (h, w, 3), but got {image.dtype} '
                         f'{image.shape}')
    x1, y1, x2, y2 = (float(value) for value in box)
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise ValueError(f'Boxes should be finite, but got {(x1, y1, x2, y2)}')
    height, width = image.shape[:2]
    left = min(max(math.floor(x1), 0), width - 1)
    top = min(max(math.floor(y1), 0), height - 1)
    right = max(min(math.ceil(x2), width), left + 1)
    bottom = max(min(math.ceil(y2), height), top + 1)
    return image[top:bottom, left:right]


def mask_out(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Mask out a box: fill it with the image's mean color.

    This covers one row and column more than :func:`crop` keeps, because a target box ends at the
    last pixels of the object. If the box covers the entire image, the image is returned unchanged:
    every text would match the box better than a plain color.

    Args:
        image: uint8 (h, w, 3).
        box: XYXY in pixels.

    Raises:
        ValueError: As in :func:`crop`.
    """
    painted = image.copy()
    x1, y1, x2, y2 = box
    part = crop(painted, (x1, y1, x2 + 1, y2 + 1))
    if part.shape == image.shape:
        return image
    part[:] = image.mean(axis=(0, 1)).round()
    return painted
