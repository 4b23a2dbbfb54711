# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Fill small holes of masks and remove small regions."""

from __future__ import annotations

import cv2
import numpy as np


def clean_mask(mask: np.ndarray, max_hole_area: int = 0,
               max_sprinkle_area: int = 0) -> np.ndarray:
    """Fill the small holes of a mask, then remove its small regions.

    A hole is a 4-connected region outside the mask that does not touch the border of the image. A
    sprinkle is an 8-connected region of the mask that is smaller than the largest one, which
    always stays. Holes are filled first, so what lies in a filled hole is no sprinkle.

    Args:
        mask: (H, W) bool.
        max_hole_area: Holes of at most so many pixels are filled; 0 fills none.
        max_sprinkle_area: Sprinkles of at most so many pixels are removed; 0 removes none.

    Returns:
        (H, W) bool, a new array.
    """
    mask = mask.copy()
    if max_hole_area:
        labels, areas = _regions(~mask, connectivity=4)
        small = areas <= max_hole_area
        small[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = False
        mask |= small[labels] & ~mask
    if max_sprinkle_area:
        labels, areas = _regions(mask, connectivity=8)
        largest = areas[1:].max(initial=0)
        mask &= ((areas > max_sprinkle_area) | (areas == largest))[labels]
    return mask


def check_areas(max_hole_area: int = 0, max_sprinkle_area: int = 0) -> None:
    """Raise ValueError unless both are areas in pixels, see :func:`clean_mask`."""
    for name, area in dict(max_hole_area=max_hole_area,
                           max_sprinkle_area=max_sprinkle_area).items():
        if not area >= 0:
            raise ValueError(f'`{name}` should be a number of pixels, 0 for none, but got {area}; '
                             f'set it to such a number')


def _regions(mask: np.ndarray, connectivity: int) -> tuple[np.ndarray, np.ndarray]:
    """Label the connected regions of a mask.

    Returns:
        (H, W) int labels, 0 outside the mask, and the area of each label in pixels.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8),
                                                           connectivity=connectivity)
    return labels, stats[:, cv2.CC_STAT_AREA]
