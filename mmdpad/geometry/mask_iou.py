# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Overlap of masks, by the protocols that papers on reasoning segmentation follow."""

from __future__ import annotations

import numpy as np

# What becomes of ReasonSeg's 'ignore' regions: part of the target (the prepared copies of
# Seg-Zero, which DPAD evaluates on), or left out of both intersection and union (LISA).
IGNORE_REGIONS = ('target', 'exclude')


def check_ignore_regions(ignore_regions: str) -> None:
    """Raises ValueError unless this is one of :data:`IGNORE_REGIONS`."""
    if ignore_regions not in IGNORE_REGIONS:
        raise ValueError(f'`ignore_regions` should be one of {IGNORE_REGIONS}, but got '
                         f'{ignore_regions!r}')


def apply_protocol(mask: np.ndarray, target: np.ndarray, ignore: np.ndarray,
                   ignore_regions: str) -> tuple[np.ndarray, np.ndarray]:
    """The prediction and the target as the protocol counts them.

    Args:
        mask, target, ignore: bool (H, W).
        ignore_regions: One of ``IGNORE_REGIONS``.

    Returns:
        Two bool masks (H, W) whose intersection and union count.

    Raises:
        ValueError: Shapes that differ, or an unknown protocol.
    """
    if not mask.shape == target.shape == ignore.shape:
        raise ValueError(f'Prediction, target and ignore region should have one shape, but got '
                         f'{mask.shape}, {target.shape} and {ignore.shape}')
    check_ignore_regions(ignore_regions)
    if ignore_regions == 'target':
        return mask, target | ignore
    return mask & ~ignore, target & ~ignore


def mask_iou(intersection: int, union: int, ignore_regions: str) -> float:
    """Intersection / union of one image, in [0, 1].

    Where the union is empty LISA's protocol ('exclude') gives 1, the evaluation script of
    Seg-Zero and DPAD ('target') gives 0.
    """
    if union == 0:
        return float(ignore_regions == 'exclude')
    return intersection / union
