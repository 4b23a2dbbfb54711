# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The base class of decoders that take box and point prompts for an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mmdpad.geometry.mask_cleaning import check_areas, clean_mask
from mmdpad.models.frozen import FrozenModule
from mmdpad.models.non_finite import NonFiniteError, diagnose
from mmdpad.models.retry_on_oom import retry_on_oom

from .prompts import check_prompts, clip_prompts, keep_inside

# Objects that are segmented at once; each has three full-size proposals in memory.
_AT_ONCE = 16


class PromptedDecoder(FrozenModule, ABC):
    """A frozen model, prompted by one box and some points per object.

    A subclass whose :meth:`segment` has the argument ``negatives`` sets ``takes_negative_points``.

    Args:
        cache_size: Capacity of ``feature_cache``.
        max_hole_area, max_sprinkle_area: Clean each mask, see
            :func:`mmdpad.geometry.mask_cleaning.clean_mask`; 0 leaves it as it is.

    Raises:
        ValueError: A number is negative.
    """

    takes_negative_points = False

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
    def forward(self, image: np.ndarray, boxes: Tensor, points: Tensor,
                negatives: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        """Segment N objects of one image.

        Args:
            image: uint8 (H, W, 3), RGB, the original frame.
            boxes: (N, 4) float, XYXY in pixels of ``image``; clipped to [0, W] x [0, H].
            points: (N, P, 2) float, (x, y) in pixels of ``image``, all positive; clipped to
                [0, W - 1] x [0, H - 1].
            negatives: Negative points (Q, 2) of each object, (x, y) in pixels of ``image``, of any
                number; those outside the image are left out. Empty for none.

        Returns:
            Masks (N, H, W) bool and scores (N,) float, see :meth:`segment`, both on the decoder's
            device.

        Raises:
            ValueError: See :func:`check_prompts` and :func:`keep_inside`.
            NonFiniteError: A score is NaN or infinite, so its mask would be arbitrary.
        """
        xyxy, xy = check_prompts(image, boxes, points)
        if not len(xyxy):
            return (torch.zeros(0, *image.shape[:2], dtype=torch.bool, device=self.device),
                    torch.zeros(0, device=self.device))
        xyxy, xy = clip_prompts(xyxy, xy, image.shape[:2])
        excluded = keep_inside(negatives, len(xyxy), image.shape[:2])

        def segment(rows: np.ndarray) -> tuple[Tensor, Tensor]:
            """Segment objects with equally many negative points."""
            some = [excluded[row] for row in rows]
            return self.segment(image, xyxy[rows], xy[rows],
                                *([np.stack(some)] if len(some[0]) else []))

        counts = np.array([len(own) for own in excluded])
        parts = [part for count in np.unique(counts) for part in self._in_parts(
            segment, np.flatnonzero(counts == count))]
        masks, scores = map(torch.cat, zip(*parts, strict=True))
        if counts.any():
            order = np.argsort(counts, kind='stable')
            back = torch.from_numpy(np.argsort(order)).to(scores.device)
            masks, scores = masks[back], scores[back]
        rows = scores.isfinite().logical_not().nonzero()
        if rows.numel():
            row = int(rows[0])
            self.forget_images()  # to encode the image again
            raise NonFiniteError(
                f'The decoder ({type(self).__name__}) should give finite scores, but that of box '
                f'{[round(x, 1) for x in xyxy[row].tolist()]} is {float(scores[row])}. '
                + diagnose(self, lambda: segment(np.array([row])), '`model.decoder.dtype`'))
        return self.clean(masks), scores

    def _in_parts(self, segment: Callable[[np.ndarray], tuple[Tensor, Tensor]],
                  rows: np.ndarray) -> list[tuple[Tensor, Tensor]]:
        """Segment the objects of these numbers, not all at once."""
        return retry_on_oom(lambda part: segment(rows[part]), len(rows),
                            f'The decoder ({type(self).__name__})', _AT_ONCE)

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
    def segment(self, image: np.ndarray, boxes: np.ndarray, points: np.ndarray,
                negatives: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, for N > 0 objects, with checked and clipped boxes and points as
        float64 arrays. Negative points (N, Q, 2) are only given if there are any."""


def join_points(points: np.ndarray, negatives: np.ndarray | None
                ) -> tuple[np.ndarray, np.ndarray]:
    """The points of N objects as SAM and its successors take them.

    Args:
        points: (N, P, 2).
        negatives: (N, Q, 2), or None.

    Returns:
        All of them, (N, P + Q, 2), and their labels (N, P + Q) int32: 1 positive, 0 negative.
    """
    labels = np.ones(points.shape[:2], np.int32)
    if negatives is None:
        return points, labels
    return (np.concatenate([points, negatives], axis=1),
            np.concatenate([labels, np.zeros(negatives.shape[:2], np.int32)], axis=1))


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
