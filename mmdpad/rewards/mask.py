# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""From the IoU of a mask to a reward."""

from __future__ import annotations

from collections.abc import Sequence


def tiered(iou: float, tiers: Sequence[float] | None) -> float:
    """The share of thresholds that an IoU exceeds, or the IoU itself without thresholds.

    Both kinds stand in SAM-R1 (arXiv 2505.22596) and later work; how many tiers and where is a
    choice.

    >>> tiered(0.8, (0.5, 0.7, 0.9, 0.95))
    0.5

    Args:
        iou: In [0, 1].
        tiers: Thresholds in [0, 1), or None.

    Returns:
        A value in [0, 1].
    """
    if not tiers:
        return iou
    return sum(iou > tier for tier in tiers) / len(tiers)
