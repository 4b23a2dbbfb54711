# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Masks, boxes with labels, and points on an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .text_panel import Swatch, load_font, printable

Boxes = Sequence[Sequence[float]]
Color = tuple[int, int, int]

# Distinguishable for people with the common kinds of color blindness.
MASK, BOX, POINT, TRUTH = (0, 130, 255), (255, 170, 0), (225, 30, 90), (0, 190, 110)
NEGATIVE = (0, 0, 0)
WRONG, UNJUDGED = POINT, (150, 150, 150)
_SMALLEST, _LARGEST = 512, 1280  # limits of the drawn image's longer side
_OPACITY = 0.45
_LONGEST = 32  # characters of a label
_COVERED = 0.15  # share of the picture that labels may cover, so that the boxes stay visible


@dataclass(frozen=True)
class Regions:
    """What is drawn on an image of (H, W), in its pixels.

    Attributes:
        mask: (H, W) bool, the predicted region.
        boxes: XYXY of the predicted boxes.
        labels: A text at each of them; may be empty.
        right: Whether each of them is right, None for neither right nor wrong; empty if unknown.
        points, negative_points: Predicted (x, y).
        gt_mask: (H, W) bool, the true region; drawn as an outline.
        gt_boxes, gt_labels: The true boxes, and a text at each.
        other_masks: K arrays (H, W) bool, regions of answers that were not chosen; drawn as thin
            outlines.
    """

    mask: np.ndarray | None = None
    boxes: Boxes = ()
    labels: Sequence[str] = ()
    right: Sequence[bool | None] = ()
    points: Sequence[Sequence[float]] = ()
    gt_mask: np.ndarray | None = None
    gt_boxes: Boxes = ()
    gt_labels: Sequence[str] = ()
    other_masks: Sequence[np.ndarray] = ()
    negative_points: Sequence[Sequence[float]] = ()

    @property
    def colors(self) -> list[Color]:
        """The color of each predicted box."""
        return [{True: BOX, False: WRONG, None: UNJUDGED}[one] for one in self.right] or (
            [BOX] * len(self.boxes))

    @property
    def legend(self) -> list[Swatch]:
        """Name and color of all that is there."""
        kinds = (('right box', BOX), ('wrong box', WRONG), ('box, not judged', UNJUDGED)
                 ) if self.right else (('box', BOX), )
        colors = self.colors
        return [item for item, given in (
            (('predicted mask', MASK), self.mask is not None),
            *((kind, kind[1] in colors) for kind in kinds),
            (('points', POINT), len(self.points)),
            (('negative points', NEGATIVE), len(self.negative_points)),
            (('true mask', TRUTH), self.gt_mask is not None),
            (('masks not chosen', UNJUDGED), len(self.other_masks)),
            (('true box', TRUTH), len(self.gt_boxes))) if given]


def draw_regions(image: np.ndarray, regions: Regions) -> tuple[np.ndarray, list[Swatch]]:
    """Draw the regions on the image, which is enlarged or reduced so that lines and labels are
    readable. A label that would cover another one is left out, and so are the last ones if
    they would cover much of the image.

    Args:
        image: (H, W, 3) uint8 RGB.
        regions: What to draw.

    Returns:
        (h, w, 3) uint8 RGB; and the legend, which also says how many labels were left out.

    Raises:
        ValueError: A mask has another size than the image.
    """
    for name in ('mask', 'gt_mask'):
        mask = getattr(regions, name)
        if mask is not None and mask.shape != image.shape[:2]:
            raise ValueError(f'`{name}` should have the size of the image {image.shape[:2]}, but '
                             f'got {mask.shape}')
    longer = max(image.shape[:2])
    scale = min(max(longer, _SMALLEST), _LARGEST) / longer
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])  # width, height
    resample = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    canvas = np.array(Image.fromarray(image).resize(size, resample))
    line = max(2, round(max(size) / 350))
    for mask in regions.other_masks:
        _outline(canvas, _resize_mask(mask, size), UNJUDGED, 1)
    if regions.mask is not None:
        region = _resize_mask(regions.mask, size)
        canvas[region] = (canvas[region] * (1 - _OPACITY) + np.array(MASK) * _OPACITY).astype(
            np.uint8)
        _outline(canvas, region, MASK, line)
    if regions.gt_mask is not None:
        _outline(canvas, _resize_mask(regions.gt_mask, size), TRUTH, line)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    # Coordinates from a model may lie anywhere; drawing needs them near the picture.
    to_canvas = np.array(size) / image.shape[1::-1]
    true, found = (np.clip(np.array(boxes, float).reshape(-1, 2, 2) * to_canvas, 0,
                           np.array(size) - 1)
                   for boxes in (regions.gt_boxes, regions.boxes))
    true, found = (np.concatenate([ends.min(axis=1), ends.max(axis=1)], axis=1)
                   for ends in (true, found))
    for box in true.tolist():  # wider, so that they are seen below a right box
        draw.rectangle(box, outline=TRUTH, width=line + 3)
    for box, color in zip(found.tolist(), regions.colors, strict=True):
        for thickness, ink in ((line + 1, (0, 0, 0)), (line, color)):
            draw.rectangle(box, outline=ink, width=thickness)
    for point, ink in [*((point, POINT) for point in regions.points),
                       *((point, NEGATIVE) for point in regions.negative_points)]:
        x, y = np.clip(np.array(point, float) * to_canvas, 0, np.array(size) - 1)
        radius = 2.5 * line
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=ink,
                     outline=(255, 255, 255), width=max(1, line // 2))
    labels = [*zip(found.tolist(), regions.labels, regions.colors, strict=False),
              *zip(true.tolist(), regions.gt_labels, [TRUTH] * len(true), strict=False)]
    legend = regions.legend + _draw_labels(draw, picture.size, labels)
    return np.array(picture), legend


def _draw_labels(draw: ImageDraw.ImageDraw, size: tuple[int, int],
                 labels: Sequence[tuple[list[float], str, Color]]) -> list[Swatch]:
    """Write the text of each (box, text, color) beside or in its box, where there is room; what
    the legend says about those left out."""
    font = load_font(max(12, round(max(size) / 60)))
    height = round(font.size * 1.25)
    texts = [(box, text, color) for box, text, color in labels if text]
    placed = np.zeros((0, 4))
    for box, text, color in texts:
        if (placed[:, 2:] - placed[:, :2]).prod(axis=1).sum() > _COVERED * size[0] * size[1]:
            break
        text = ' '.join(printable(text).split())
        text = text if len(text) <= _LONGEST else f'{text[:_LONGEST - 1]}…'
        width = font.getlength(text) + 6
        for x, y in _places(box, width, height, color == TRUTH):
            left, top = min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - height)
            place = np.array([left, top, left + width, top + height])
            if not ((placed[:, :2] < place[2:]) & (placed[:, 2:] > place[:2])).all(axis=1).any():
                placed = np.concatenate([placed, place[None]])
                draw.rectangle(place.tolist(), fill=color)
                draw.text((left + 3, top), text, font=font,
                          fill=(255, 255, 255) if color == WRONG else (0, 0, 0))
                break
    left_out = len(texts) - len(placed)
    # white: not a color of the picture
    return [(f'{left_out} of {len(texts)} labels left out: no room', (255, 255, 255))
            ] if left_out else []


def _places(box: list[float], width: float, height: float,
            below: bool) -> Iterator[tuple[float, float]]:
    """Where a label's left top corner may be: above or below its box and in it, at its left, then
    at its right."""
    left, top, right, bottom = box
    rows = [top - height, top, bottom, bottom - height]
    for x in (left, right - width):
        for y in rows[2:] + rows[:2] if below else rows:
            yield x, y


def _resize_mask(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    return np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _outline(canvas: np.ndarray, region: np.ndarray, color: Color, line: int) -> None:
    """Draw the region's outline into the canvas: the color on a wider white line."""
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP,
                                   cv2.CHAIN_APPROX_NONE)
    for thickness, ink in ((line + 2, (255, 255, 255)), (line, color)):
        cv2.drawContours(canvas, contours, -1, ink, thickness, cv2.LINE_AA)
