# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""open_clip's preprocessing for regions of any shape, with the same pixel values.

open_clip resizes the whole image before it crops. Here, only the part of a long image that is kept
is computed. With 'longest', which crops nothing, open_clip may also shrink a side to 0 pixels.
"""

from __future__ import annotations

import numpy as np
from open_clip.transform import ResizeKeepRatio
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from torchvision.transforms import functional as F

_ROOM = 16  # an image is resized as a whole up to this many times the pixels that are kept
_PRECISION = 22  # bits of Pillow's weights
_SUPPORT = {InterpolationMode.BILINEAR: 1.0, InterpolationMode.BICUBIC: 2.0}
Size = tuple[int, int]


def for_any_shape(preprocess: Compose) -> Compose:
    """Adapt open_clip's evaluation preprocessing to images of any shape."""
    resize, crop, *others = preprocess.transforms
    if isinstance(crop, CenterCrop):
        return Compose([_ResizeAndCrop(resize, crop), *others])
    if isinstance(resize, ResizeKeepRatio):
        return Compose([_KeepRatio(resize), crop, *others])
    return preprocess


class _KeepRatio:
    """:class:`ResizeKeepRatio` whose sides have at least one pixel."""

    def __init__(self, resize: ResizeKeepRatio) -> None:
        self.resize = resize

    def __call__(self, image: Image.Image) -> Image.Image:
        sides = self.resize.get_params(image, self.resize.size, self.resize.longest)
        return F.resize(image, [max(side, 1) for side in sides], self.resize.interpolation)


class _ResizeAndCrop:
    """Resizes the shorter side to the model's size and crops the center, in one step for a long
    image."""

    def __init__(self, resize: Resize | ResizeKeepRatio, crop: CenterCrop) -> None:
        self.resize, self.crop = resize, crop

    def __call__(self, image: Image.Image) -> Image.Image:
        height, width = self.crop.size
        whole = self._resized(image)
        if whole[0] * whole[1] <= _ROOM * width * height:
            return self.crop(self.resize(image))
        left, top = (round((side - kept) / 2) for side, kept in zip(whole, (width, height),
                                                                    strict=True))
        return resize_part(image, whole, (left, top, left + width, top + height),
                           self.resize.interpolation)

    def _resized(self, image: Image.Image) -> Size:
        """Return the (width, height) of the whole image after resizing."""
        if isinstance(self.resize, ResizeKeepRatio):
            height, width = self.resize.get_params(image, self.resize.size, self.resize.longest)
            return width, height
        short, long = sorted(image.size)
        sides = self.resize.size, int(self.resize.size * long / short)
        return sides if image.width <= image.height else (sides[1], sides[0])


def resize_part(image: Image.Image, size: Size, box: tuple[int, int, int, int],
                interpolation: InterpolationMode) -> Image.Image:
    """Compute Pillow's ``image.resize(size).crop(box)``, bit for bit, without the discarded part.

    (Pillow's own ``resize(box=...)`` takes the box as 32-bit floats, which rounds differently.)

    Args:
        image: RGB.
        size: (width, height) of the whole resized image.
        box: Left, upper, right and lower edge in the resized image, in pixels.
        interpolation: Bicubic or bilinear.
    """
    left, top, right, bottom = box
    columns = _Taps(image.width, size[0], left, right, interpolation)
    rows = _Taps(image.height, size[1], top, bottom, interpolation)
    used = image.crop((columns.first, rows.first, columns.last + 1, rows.last + 1))
    # Columns first, rounded to 8 bits in between, as Pillow does.
    across = columns.apply(np.asarray(used).swapaxes(0, 1)).swapaxes(0, 1)
    return Image.fromarray(np.ascontiguousarray(rows.apply(across)))


class _Taps:
    """The weights of a line's pixels in the pixels ``start`` to ``stop`` of the resized line.

    Args:
        length: Number of pixels in the line.
        resized: Number of pixels in the whole resized line.
        start, stop: The part of the resized line to compute.
        interpolation: Bicubic or bilinear.
    """

    def __init__(self, length: int, resized: int, start: int, stop: int,
                 interpolation: InterpolationMode) -> None:
        scale = length / resized
        stretch = max(scale, 1.0)  # antialiasing
        reach = _SUPPORT[interpolation] * stretch
        centers = (np.arange(start, stop) + 0.5) * scale
        begin = np.maximum((centers - reach + 0.5).astype(int), 0)
        end = np.minimum((centers + reach + 0.5).astype(int), length)
        places = begin[:, None] + np.arange((end - begin).max())
        is_used = places < end[:, None]
        weights = np.where(is_used, _kernel(
            np.abs(places - centers[:, None] + 0.5) / stretch, interpolation), 0)
        weights /= np.cumsum(weights, axis=1)[:, -1:]  # summed one by one, as in C
        self.first, self.last = int(begin.min()), int(end.max()) - 1
        self._places = np.minimum(places, self.last) - self.first
        self._weights = np.rint(weights * (1 << _PRECISION)).astype(np.int64)

    def apply(self, lines: np.ndarray) -> np.ndarray:
        """Resize the pixels ``first`` to ``last``, (L, ..., 3) uint8, to (stop - start, ..., 3)."""
        total = np.full((len(self._places), *lines.shape[1:]), 1 << (_PRECISION - 1), np.int64)
        for places, weights in zip(self._places.T, self._weights.T, strict=True):
            total += weights[:, None, None] * lines[places]
        return np.clip(total >> _PRECISION, 0, 255).astype(np.uint8)


def _kernel(distance: np.ndarray, interpolation: InterpolationMode) -> np.ndarray:
    """Evaluate the filter at a non-negative distance in pixels."""
    x = distance
    if interpolation is InterpolationMode.BILINEAR:
        return np.maximum(1 - x, 0)
    a = -0.5
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))
