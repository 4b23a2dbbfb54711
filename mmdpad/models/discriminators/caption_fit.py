# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Compares a caption with its region and with the whole image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from mmdpad.geometry.boxes import enlarge, overlaps
from mmdpad.geometry.regions import crop


def caption_fit(discriminator: Callable[[Sequence[np.ndarray], Sequence[str | None]], Tensor],
                image: np.ndarray, box: Sequence[float], caption: str | None,
                region_margin: float = 0.0) -> tuple[float, float] | None:
    """Compute a caption's similarity to a region and to the whole image, S1 and S2 of R_dpad.

    Args:
        discriminator: Maps P images and N captions to (P, N) cosines, see ``CLIPDiscriminator``.
        image: uint8 (H, W, 3), RGB.
        box: XYXY in pixels of ``image``.
        caption: The caption, or None.
        region_margin: As in :class:`DiscriminativeOptions`.

    Returns:
        Two cosines in [-1, 1]. None if there is nothing to compare: the box is not finite or has
        no area in the image, or the caption is missing, empty or too long for the model.
    """
    if not all(map(math.isfinite, box)) or not overlaps(box, image.shape[:2]):
        return None
    region = crop(image, enlarge(box, region_margin))
    with_region, with_image = discriminator([region, image], [caption])[:, 0].tolist()
    return None if math.isnan(with_region) else (with_region, with_image)
