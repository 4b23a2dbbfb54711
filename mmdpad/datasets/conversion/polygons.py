# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Convert masks to polygons that reproduce exactly the same pixels."""

from __future__ import annotations

import cv2
import numpy as np


def polygons_from_mask(mask: np.ndarray) -> list[np.ndarray]:
    """Outlines of a mask, one per connected part (pixels that touch at a corner are connected).

    A filled polygon includes its outline. Here an outline runs through the centers of a part's
    outermost pixels, so filling it reproduces that part exactly. Holes are cut out by the even-odd
    rule: the outline runs along one row of the part to the hole's edge, around the hole, and back
    the same way.

    Args:
        mask: (H, W) bool.

    Returns:
        Polygons, each (N, 2) int32, (x, y) in pixels.
    """
    contours, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP,
                                           cv2.CHAIN_APPROX_NONE)
    if not contours:
        return []
    # Per contour: [next, previous, first child, parent]; a hole's parent is its part's outline.
    parents = hierarchy[0, :, 3]
    rings = [contour[:, 0] for contour in contours]
    polygons = []
    for i in np.flatnonzero(parents < 0):
        holes = [rings[hole] for hole in np.flatnonzero(parents == i)]
        outline = rings[i]
        # From left to right, so that anything to the left of a hole is already in the outline.
        for hole in sorted(holes, key=lambda ring: ring[:, 0].min()):
            outline = _cut_out(outline, hole, mask)
        polygons.append(_without_straights(outline))
    return polygons


def _cut_out(outline: np.ndarray, hole: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Connect the ring of a hole to the outline, from the ring's leftmost pixel straight left to
    where the mask ends."""
    start = hole[:, 0].argmin()
    x, y = hole[start]
    while x > 0 and mask[y, x - 1]:
        x -= 1
    at = np.flatnonzero((outline == (x, y)).all(axis=1))[0]
    ring = np.roll(hole, -start, axis=0)
    return np.concatenate([outline[:at + 1], ring, ring[:1], outline[at:]])


def _without_straights(outline: np.ndarray) -> np.ndarray:
    """An outline without the points at which its direction does not change."""
    before = np.sign(outline - np.roll(outline, 1, axis=0))
    after = np.sign(np.roll(outline, -1, axis=0) - outline)
    kept = (before != after).any(axis=1)
    return outline[kept] if kept.any() else outline[:1]
