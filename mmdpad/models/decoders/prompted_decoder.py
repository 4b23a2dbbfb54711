# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The base class of decoders that take box and point prompts for an image."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from mmdpad.geometry.mask_cleaning import check_areas, clean_mask
from mmdpad.models.frozen import FrozenModule
from mmdpad.models.non_finite import NonFiniteError, diagnose
from mmdpad.models.retry_on_oom import retry_on_oom

from .prompts import check_prompts, clip_prompts

# Objects that are segmented at once; each has three full-size proposals in memory.
_AT_ONCE = 16


class PromptedDecoder(FrozenModule, ABC):
    """A frozen model, prompted by one box and some positive points per object.

    Args:
        cache_size: Capacity of ``feature_cache``.
        max_hole_area, max_sprinkle_area: Clean each mask, see
            :func:`mmdpad.geometry.mask_cleaning.clean_mask`; 0 leaves it as it is.

    Raises:
        ValueError: A number is negative.
    """

    def __init__(self, cache_size: int = 0, max_hole_area: int = 0,
                 max_sprinkle_area: int = 0) -> None:
        super().__init__(cache_size)
        check_areas(max_hole_area, max_sprinkle_area)
        self.max_hole_area, self.max_sprinkle_area = max_hole_area, max_sprinkle_area

    def describe(self, *names: str) -> str:
        """Join the names of a variant with the settings of its cleaning, for result files."""
        areas = dict(max_hole_area=self.max_hole_area, max_sprinkle_area=self.max_sprinkle_area)
        return ', '.join([*names, *(f'{name}={area}' for name, area in areas.items() if area)])

    @torch.no_grad()
    def forward(self, image: np.ndarray, boxes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Segment N objects of one image.

        Args:
            image: uint8 (H, W, 3), RGB, the original frame.
            boxes: (N, 4) float, XYXY in pixels of ``image``; clipped to [0, W] x [0, H].
            points: (N, P, 2) float, (x, y) in pixels of ``image``, all positive; clipped to
                [0, W - 1] x [0, H - 1].

        Returns:
            Masks (N, H, W) bool and scores (N,) float, see :meth:`segment`, both on the decoder's
            device.

        Raises:
            ValueError: See :func:`check_prompts`.
            NonFiniteError: A score is NaN or infinite, so its mask would be arbitrary.
        """
        xyxy, xy = check_prompts(image, boxes, points)
        if not len(xyxy):
            return (torch.zeros(0, *image.shape[:2], dtype=torch.bool, device=self.device),
                    torch.zeros(0, device=self.device))
        xyxy, xy = clip_prompts(xyxy, xy, image.shape[:2])
        parts = retry_on_oom(lambda part: self.segment(image, xyxy[part], xy[part]),
                             len(xyxy), f'The decoder ({type(self).__name__})', _AT_ONCE)
        masks, scores = map(torch.cat, zip(*parts, strict=True))
        rows = scores.isfinite().logical_not().nonzero()
        if rows.numel():
            row = int(rows[0])
            part = slice(row, row + 1)
            self.forget_images()  # to encode the image again
            raise NonFiniteError(
                f'The decoder ({type(self).__name__}) should give finite scores, but that of box '
                f'{[round(x, 1) for x in xyxy[row].tolist()]} is {float(scores[row])}. '
                + diagnose(self, lambda: self.segment(image, xyxy[part], xy[part]),
                           '`model.decoder.dtype`'))
        return self.clean(masks), scores

    def clean(self, masks: Tensor) -> Tensor:
        """Fill the small holes of masks (N, H, W) and remove their small regions, as configured."""
        if not (self.max_hole_area or self.max_sprinkle_area):
            return masks
        return torch.stack([
            torch.from_numpy(clean_mask(mask, self.max_hole_area, self.max_sprinkle_area))
            for mask in masks.cpu().numpy()]).to(masks.device)

    def forget_images(self) -> None:
        """Drop all that was computed from images."""
        self.feature_cache.clear()

    @abstractmethod
    def segment(self, image: np.ndarray, boxes: np.ndarray,
                points: np.ndarray) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, for N > 0 objects, with checked and clipped boxes and points as
        float64 arrays."""


def best_of(masks: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Choose the proposal with the highest score for each of N objects.

    Args:
        masks: (N, K, ...), K proposals per object.
        scores: (N, K).

    Returns:
        The masks (N, ...) and scores (N,) of the best proposals.
    """
    best = scores.argmax(dim=1)
    rows = torch.arange(len(best), device=scores.device)
    return masks[rows, best], scores[rows, best]
