# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The pixels that labelme's `shapes` mark in an image.

Polygons are filled by OpenCV, as in LISA's reader. The other shapes with an area are drawn by
Pillow, as in labelme (6.3.1, ``labelme/utils/shape.py``):

- ``rectangle``: two opposite corners, both inside;
- ``circle``: the center and a point on the circle;
- ``oriented_rectangle``: four corners;
- ``mask``: two corners of a box; the upper left one (truncated to whole pixels) is the position of
  ``mask``, a PNG in base64 in which 0 is background. labelme expects a mask of the size of its
  box, inside the image; here a larger mask is cut to the box, and pixels outside the image are
  dropped.
"""

from __future__ import annotations

import base64
import io
import math
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from mmdpad.geometry.masks import check_outline

from .annotation_fields import are_numbers, wrong_field
from .errors import DatasetError
from .images import open_image

POINTS = {'rectangle': 2, 'circle': 2, 'oriented_rectangle': 4, 'mask': 2}
"""Shapes other than polygons, and their number of points."""
KINDS = ('polygon', *POINTS)
NO_AREA = ('line', 'linestrip', 'point', 'points')
MAX_RADIUS = 200_000
"""Of a circle, in pixels."""
# Pillow's modes of the image in a `mask`: one value per pixel.
_MASK_MODES = ('1', 'L')


class Shape(ABC):
    """One entry, which marks a target or an ignored region (``is_ignored``)."""
    is_ignored: bool

    @abstractmethod
    def check(self, height: int, width: int) -> None:
        """Raise a ValueError for a shape that no image of this size has."""

    @abstractmethod
    def draw(self, canvas: np.ndarray, value: int) -> None:
        """Set the marked pixels of a uint8 array (H, W) to a value."""

    def area(self, height: int, width: int) -> int:
        """The number of pixels that it marks in an image."""
        canvas = np.zeros((height, width), np.uint8)
        self.draw(canvas, 1)
        return cv2.countNonZero(canvas)

    def is_outside(self, height: int, width: int) -> bool:
        """Whether it lies outside an image."""
        return not self.area(height, width)


@dataclass(frozen=True)
class Polygon(Shape):
    """A closed polygon: ``points`` (N, 2) int32, (x, y), N >= 1; it includes its outline."""
    points: np.ndarray
    is_ignored: bool

    def check(self, height: int, width: int) -> None:
        """See :func:`mmdpad.geometry.masks.check_outline`."""
        check_outline(self.points, height, width)

    def draw(self, canvas: np.ndarray, value: int) -> None:
        """Fill it with OpenCV."""
        cv2.fillPoly(canvas, [self.points], color=value)


@dataclass(frozen=True)
class Figure(Shape):
    """Another shape: ``kind`` is one of :data:`POINTS`, ``points`` (N, 2) float64, (x, y), and
    ``png`` the file of a mask."""
    kind: str
    points: np.ndarray
    is_ignored: bool
    png: bytes | None = None

    def check(self, height: int, width: int) -> None:
        """Also check that a mask is a PNG with one value per pixel, at least as large as its box
        and not larger than the image."""
        if self.kind == 'circle' and self._radius() > MAX_RADIUS:
            raise ValueError(f'a circle should have a radius of at most {MAX_RADIUS} pixels, but '
                             f'one has {self._radius():.0f}')
        if self.kind == 'mask':
            self._read_mask(height, width)

    def draw(self, canvas: np.ndarray, value: int) -> None:
        """Draw it with Pillow."""
        canvas[self._pixels(*canvas.shape)] = value

    def is_outside(self, height: int, width: int) -> bool:
        """A mask may consist of background only and still lie inside."""
        if self.kind != 'mask':
            return super().is_outside(height, width)
        (x1, y1), (x2, y2) = self.points
        return not (x1 < width and y1 < height and x2 > -1 and y2 > -1)

    def _radius(self) -> float:
        (x, y), (on_x, on_y) = self.points
        return math.sqrt((x - on_x)**2 + (y - on_y)**2)

    def _pixels(self, height: int, width: int) -> np.ndarray:
        """bool (height, width)."""
        if self.kind == 'mask':
            return self._place_mask(height, width)
        image = Image.new('L', (width, height))
        brush = ImageDraw.Draw(image)
        if self.kind == 'circle':
            (x, y), radius = self.points[0].tolist(), self._radius()
            brush.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1, outline=1)
        elif self.kind == 'rectangle':
            corners = np.sort(self.points, axis=0)
            brush.rectangle(tuple(corners.ravel().tolist()), fill=1, outline=1)
        else:
            brush.polygon(self.points.ravel().tolist(), fill=1, outline=1)
        return np.asarray(image, bool)

    def _place_mask(self, height: int, width: int) -> np.ndarray:
        values = self._read_mask(height, width)
        (left, top), _ = self.points.astype(int).tolist()
        # The part of the values inside the image, in their own frame.
        x1, y1 = max(-left, 0), max(-top, 0)
        x2, y2 = min(width - left, values.shape[1]), min(height - top, values.shape[0])
        placed = np.zeros((height, width), bool)
        if x1 < x2 and y1 < y2:
            placed[top + y1:top + y2, left + x1:left + x2] = values[y1:y2, x1:x2]
        return placed

    def _read_mask(self, height: int, width: int) -> np.ndarray:
        """The values within the box, bool."""
        (x1, y1), (x2, y2) = self.points.astype(int).tolist()
        with open_image(io.BytesIO(self.png or b''), 'its `mask`') as image:
            if image.format != 'PNG' or image.mode not in _MASK_MODES:
                raise DatasetError('its `mask` should be a PNG with one value per pixel (mode '
                                   f'{" or ".join(_MASK_MODES)}), but is {image.format} with mode '
                                   f'{image.mode}; save the annotation again with labelme')
            if image.width > width or image.height > height or not (
                    0 < x2 - x1 + 1 <= image.width and 0 < y2 - y1 + 1 <= image.height):
                raise DatasetError(
                    f'its `mask` should be as large as its box of {x2 - x1 + 1} x {y2 - y1 + 1} '
                    f'pixels (width x height) and not larger than the image of {width} x {height}, '
                    f'but is {image.width} x {image.height}')
            values = np.asarray(image, bool)
        return values[:y2 - y1 + 1, :x2 - x1 + 1]


def parse_shape(path: str | os.PathLike, name: str, shape: object) -> Shape | None:
    """Parse an entry of an annotation's ``shapes``; None for any entry labeled ``flag``.

    A label that contains ``ignore`` marks an ignored region, any other label the target; case does
    not matter. A missing or null ``shape_type`` means a polygon. Its coordinates are truncated
    toward zero, as in the reference.

    Args:
        path: The file, for messages.
        name: Of the entry.
        shape: The entry as parsed from JSON.

    Raises:
        DatasetError: It is malformed, or has no area.
    """
    if not isinstance(shape, dict) or not isinstance(shape.get('label'), str):
        raise wrong_field(path, name, 'an object with a string `label` and a list `points`', shape)
    label = shape['label'].lower()
    if label == 'flag':
        return None
    kind = shape.get('shape_type')
    kind = 'polygon' if kind is None else kind
    if kind in NO_AREA:
        raise DatasetError(
            f'`{name}` of {path} should mark an area, but is a {kind} (`shape_type`), which has '
            f'none; draw it as {" or ".join(KINDS)}, or label it `flag` to skip it', 'no area')
    if kind not in KINDS:
        raise wrong_field(path, f'{name}.shape_type', ' or '.join(KINDS), kind)
    points = shape.get('points')
    if not isinstance(points, list) or not points or not all(are_numbers(p, 2) for p in points):
        raise wrong_field(path, f'{name}.points',
                          'a list of at least one [x, y], numbers in pixels of the image', points)
    array, is_ignored = np.array(points, np.float64), 'ignore' in label
    if kind == 'polygon':
        return Polygon(array.astype(np.int32), is_ignored)
    if len(points) != POINTS[kind]:
        raise wrong_field(path, f'{name}.points', f'the {POINTS[kind]} points of a {kind}',
                          points)
    png = _decode(path, f'{name}.mask', shape.get('mask')) if kind == 'mask' else None
    return Figure(kind, array, is_ignored, png)


def _decode(path: str | os.PathLike, name: str, text: object) -> bytes:
    wrong = wrong_field(path, name, 'a PNG in base64, as labelme writes it', text)
    if not isinstance(text, str):
        raise wrong
    try:
        return base64.b64decode(text)
    except ValueError:
        raise wrong from None
