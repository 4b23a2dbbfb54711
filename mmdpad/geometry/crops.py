# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Crops of an original image that a policy is shown, and the way back of what it writes of them.

The coordinates in a turn of a conversation refer to the image that was shown last: at first the
model image, then the newest crop. They are mapped to the original frame here, and only here; the
frames are those of :mod:`.coordinates`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mmdpad.structures import ParseFailure, ReasoningOutput
from mmdpad.structures.reasoning_output import Box
from mmdpad.utils.number_checks import check_number

from .boxes import overlaps
from .coordinates import convert_answer, scale_pairs, to_model_frame, written_shape

if TYPE_CHECKING:
    from torch import Tensor

MAX_ASPECT = 100
"""How many times longer than wide a crop is shown at most, or the other way round, since processors
refuse images from 200 on. A crop beyond that is stretched."""

_ROUNDING = 1e-6  # of a pixel, which a box does not touch by rounding alone


@dataclass
class CropLimits:
    """How large crops are, and with how many pixels they are shown.

    Args:
        min_side: Shortest side of a crop in pixels of the original image; a smaller one is enlarged
            around its center, as far as the image reaches.
        min_pixels, max_pixels: A crop is shown with its own pixels if their number is between, and
            is otherwise enlarged or reduced. (28 x 28 pixels are a token of Qwen2.5-VL.)
        size: (width, height) in pixels in which every crop is shown instead, stretched as model
            images are; None to keep its aspect ratio.

    Raises:
        ValueError: A number is below 1, or ``min_pixels`` exceeds ``max_pixels``.
    """

    min_side: int = 56
    min_pixels: int = 256 * 256  # the least that Qwen3-VL's processor keeps
    max_pixels: int = 28 * 28 * 400
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ('min_side', 'min_pixels', 'max_pixels'):
            setattr(self, name, check_number(name, getattr(self, name), 'at least 1',
                                             lambda n: n >= 1, True))
        if self.min_pixels > self.max_pixels:
            raise ValueError(f'`min_pixels` of a crop should be at most `max_pixels` = '
                             f'{self.max_pixels}, but got {self.min_pixels}; lower it')
        if self.size is not None:
            if not isinstance(self.size, (tuple, list)) or len(self.size) != 2:
                raise ValueError(f'`size` of crops should be (width, height) or None, but got '
                                 f'{self.size!r}; correct it')
            width, height = (check_number('size', side, 'a width and a height of at least 1',
                                          lambda n: n >= 1, True) for side in self.size)
            self.size = width, height

    def extreme_shapes(self, factor: int) -> set[tuple[int, int]]:
        """Shapes of the largest and the smallest crops, square and as long as they can be."""
        return {self.shown_shape(side * math.sqrt(aspect), side / math.sqrt(aspect), factor)
                for side in (math.sqrt(self.min_pixels), math.sqrt(self.max_pixels))
                for aspect in (1, 3, 1 / 3, MAX_ASPECT, 1 / MAX_ASPECT)}

    def shown_shape(self, height: float, width: float, factor: int) -> tuple[int, int]:
        """(height, width) that a crop of this size is shown in: that of ``size``, or multiples of
        ``factor``, close to its aspect ratio, with a number of pixels within the limits as far as
        such multiples exist. (The rule of Qwen2-VL's processor, arXiv 2409.12191, which then keeps
        that size; only that long crops keep within the limits, too.)"""
        def multiples(scale: float, whole: Callable[[float], int]) -> tuple[int, int]:
            rows, columns = (max(1, whole(scale * side / factor)) for side in (height, width))
            return rows, columns

        if self.size is not None:
            return self.size[1], self.size[0]
        height, width = max(height, width / MAX_ASPECT), max(width, height / MAX_ASPECT)
        least, most = (pixels / factor**2 for pixels in (self.min_pixels, self.max_pixels))
        rows, columns = multiples(1, round)
        if rows * columns > most:
            rows, columns = multiples(math.sqrt(self.max_pixels / (height * width)), math.floor)
        elif rows * columns < least:
            rows, columns = multiples(math.sqrt(self.min_pixels / (height * width)), math.ceil)
        # Rounding both sides may leave the limits again, most of all for long crops.
        short, long = sorted((rows, columns))
        short += short * long < least
        long = max(1, min(long, int(most / short)))
        rows, columns = (short, long) if rows <= columns else (long, short)
        return rows * factor, columns * factor


@dataclass(frozen=True)
class Crop:
    """A part of an original image, or all of it, as an image that the policy is shown.

    Attributes:
        box: XYXY in pixels of the original image, whole numbers; x2 and y2 are outer edges.
        shape: (height, width) in pixels of the image shown.
    """

    box: tuple[int, int, int, int]
    shape: tuple[int, int]

    @classmethod
    def whole(cls, original_shape: tuple[int, int], shape: tuple[int, int]) -> Crop:
        """All of an image of this (height, width)."""
        return cls((0, 0, original_shape[1], original_shape[0]), shape)

    def to_original(self, values: Sequence[float], coordinates: str) -> tuple[float, ...]:
        """Map what a policy writes of this image to pixels of the original image.

        Args:
            values: x, y, x, y, ... of a box or points. They may lie outside the image.
            coordinates: One of :data:`.coordinates.COORDINATES`, those it writes.
        """
        left, top, right, bottom = self.box
        scaled = scale_pairs(values, written_shape(coordinates, self.shape),
                             (bottom - top, right - left))
        return tuple(value + (top if place % 2 else left) for place, value in enumerate(scaled))

    def from_original(self, values: Sequence[float], coordinates: str) -> tuple[float, ...]:
        """The inverse of :meth:`to_original`."""
        left, top, right, bottom = self.box
        moved = [value - (top if place % 2 else left) for place, value in enumerate(values)]
        return scale_pairs(moved, (bottom - top, right - left),
                           written_shape(coordinates, self.shape))

    def zoom(self, box: Box, coordinates: str, original_shape: tuple[int, int],
             limits: CropLimits, factor: int) -> Crop | None:
        """The crop that a box in this image asks for.

        Args:
            box: XYXY with positive area, as a policy writes it.
            coordinates: See :meth:`to_original`.
            original_shape: (height, width) of the original image.
            limits: How large the crop may be, and is shown.
            factor: The crop is shown with multiples of so many pixels.

        Returns:
            The whole pixels that the box touches, cut off at the image's border and enlarged to
            ``limits.min_side``; None if the box is outside the image.
        """
        found = self.to_original(box, coordinates)
        if not overlaps(found, original_shape):
            return None
        height, width = original_shape
        x1, y1 = (max(math.floor(value + _ROUNDING), 0) for value in found[:2])
        x2, y2 = (min(math.ceil(value - _ROUNDING), end)
                  for value, end in zip(found[2:], (width, height), strict=True))
        x1, x2 = _enlarge(x1, x2, limits.min_side, width)
        y1, y2 = _enlarge(y1, y2, limits.min_side, height)
        return Crop((x1, y1, x2, y2), limits.shown_shape(y2 - y1, x2 - x1, factor))

    def cut(self, image: Tensor) -> Tensor:
        """Cut the crop out of the original image, uint8 (3, H, W), as uint8 (3, h, w) of its
        shape, on the CPU, by the filter of model images (``ModelImageResize``)."""
        import torch  # not at the top: coordinates do not need it
        x1, y1, x2, y2 = self.box
        part = Image.fromarray(
            image[:, y1:y2, x1:x2].permute(1, 2, 0).contiguous().cpu().numpy())
        shown = part.resize((self.shape[1], self.shape[0]), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(shown)).permute(2, 0, 1).contiguous()

    def answer_to_model_frame(self, answer: ReasoningOutput | ParseFailure, coordinates: str,
                              original_shape: tuple[int, int],
                              model_shape: tuple[int, int]) -> ReasoningOutput | ParseFailure:
        """Convert an answer about this image to pixels of the model image, not rounded.

        Args:
            answer: As :func:`mmdpad.prompts.parse_response` reads it.
            coordinates: See :meth:`to_original`.
            original_shape, model_shape: (height, width) of the original and the model image.
        """
        if self == Crop.whole(original_shape, model_shape):
            return to_model_frame(answer, coordinates, model_shape)
        return convert_answer(answer, lambda values: scale_pairs(
            self.to_original(values, coordinates), original_shape, model_shape))


def _enlarge(low: int, high: int, shortest: int, end: int) -> tuple[int, int]:
    """A range of at least ``shortest`` around the same center, moved into [0, end]."""
    missing = max(0, shortest - (high - low))
    low = max(0, min(low - missing // 2, end - max(shortest, high - low)))
    return low, min(end, max(high, low + shortest))
