# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""One picture per answer: question, mask, reasoning and caption."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from mmdpad.geometry.masks import decode_mask

from .text_panel import draw_text_panel

# Distinguishable for people with the common kinds of color blindness.
MASK, BOX, POINT, TRUTH = (0, 130, 255), (255, 170, 0), (225, 30, 90), (0, 190, 110)
_SMALLEST, _LARGEST = 512, 1280  # limits of the drawn image's longer side
_OPACITY = 0.45
_BACKGROUND = 255


def draw_answer(image: np.ndarray,
                mask: np.ndarray | None = None,
                boxes: Sequence[Sequence[float]] = (),
                points: Sequence[Sequence[float]] = (),
                question: str = '',
                think: str | None = None,
                caption: str | None = None,
                gt_mask: np.ndarray | None = None,
                note: str | None = None,
                panel: bool = True,
                answer: str | None = None) -> np.ndarray:
    """Draw mask, boxes and points on the image, with the texts beside it or (if it is wide) below.

    Small images are enlarged and large ones reduced so that lines and text are readable.

    Args:
        image: (H, W, 3) uint8 RGB, the original frame.
        mask: (H, W) bool, the predicted region.
        boxes: XYXY in pixels of ``image``.
        points: (x, y) in pixels of ``image``.
        question, think, caption: The question, the reasoning and the caption.
        gt_mask: (H, W) bool, the true region; drawn as an outline.
        note: A further line, such as an IoU or the reason for a failure.
        panel: Whether to put the texts and a legend beside or below the image.
        answer: The answer in words.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        ValueError: The image is not uint8 (H, W, 3), or a mask has another size.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f'`image` should be a uint8 array (H, W, 3), but got {image.dtype} '
                         f'{image.shape}')
    for name, region in (('mask', mask), ('gt_mask', gt_mask)):
        if region is not None and region.shape != image.shape[:2]:
            raise ValueError(f'`{name}` should have the size of the image {image.shape[:2]}, but '
                             f'got {region.shape}')
    picture = draw_regions(image, mask, boxes, points, gt_mask)
    if not panel:
        return picture
    legend = [item for item, given in (
        (('predicted mask', MASK), mask is not None), (('box', BOX), len(boxes)),
        (('points', POINT), len(points)), (('true mask', TRUTH), gt_mask is not None)) if given]
    sections = [('Question', question), ('Reasoning', think or ''), ('Answer', answer or ''),
                ('Caption', caption or ''), ('Result', note or '')]
    height, width = picture.shape[:2]
    font_size = max(14, round(max(height, width) / 55))
    if width > 1.25 * height:
        return _stack(picture, draw_text_panel(sections, legend, width, font_size), axis=0)
    panel_width = max(24 * font_size, width * 3 // 5)
    return _stack(picture, draw_text_panel(sections, legend, panel_width, font_size), axis=1)


def draw_row(image: np.ndarray, row: Mapping[str, Any], note: str | None = None,
             with_reasoning: bool = True, panel: bool = True) -> np.ndarray:
    """Draw a line of a result file.

    Args:
        image: (H, W, 3) uint8 RGB, the original frame.
        row: A line of :class:`ReasonSegMetric` or :class:`QuestionAnsweringMetric`; without
            ``mask`` and ``target`` (``save_masks``), no masks are drawn.
        note: The last line of the picture; None for :func:`verdict`.
        with_reasoning: Whether to add reasoning and caption to the panel.
        panel: As in :func:`draw_answer`.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        ValueError: A mask is broken or has another size than the image.
    """
    mask, target = (None if row.get(name) is None else decode_mask(row[name])
                    for name in ('mask', 'target'))
    return draw_answer(
        image, mask, row.get('boxes') or [],
        [point for points in row.get('points') or [] for point in points], row['question'],
        row.get('think') if with_reasoning else None,
        row.get('caption') if with_reasoning else None, target, note or verdict(row), panel,
        row.get('answer'))


def verdict(row: Mapping[str, Any]) -> str:
    """The quality of the answer in a result file's line, in words."""
    if row['failure']:
        return f'unusable answer: {row["failure"]}'
    if 'accuracy' not in row:
        return f'IoU {row["iou"]:.2f}'
    wanted = ', '.join(dict.fromkeys(row['answers']))
    seen = '' if row['evidence_iou'] is None else f', evidence IoU {row["evidence_iou"]:.2f}'
    return f'accuracy {row["accuracy"]:.2f} (right: {wanted}){seen}'


def draw_grid(pictures: Sequence[np.ndarray], columns: int | None = None, gap: int = 12
              ) -> np.ndarray:
    """Arrange pictures (uint8 RGB, any sizes) in rows, each at the top left of its cell.

    Args:
        pictures: At least one.
        columns: Pictures per row; None for about as many rows as columns.
        gap: White pixels between cells.

    Raises:
        ValueError: There is no picture, or ``columns`` is not positive.
    """
    if not pictures or (columns is not None and columns < 1):
        raise ValueError(f'There should be pictures and at least one column, but got '
                         f'{len(pictures)} pictures and columns={columns}')
    columns = min(columns or math.ceil(math.sqrt(len(pictures))), len(pictures))
    rows = [pictures[i:i + columns] for i in range(0, len(pictures), columns)]
    heights = [max(p.shape[0] for p in row) for row in rows]
    widths = [max(row[c].shape[1] for row in rows if c < len(row)) for c in range(columns)]
    canvas = np.full((sum(heights) + gap * (len(rows) - 1), sum(widths) + gap * (columns - 1), 3),
                     _BACKGROUND, dtype=np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            y, x = sum(heights[:r]) + gap * r, sum(widths[:c]) + gap * c
            canvas[y:y + picture.shape[0], x:x + picture.shape[1]] = picture
    return canvas


def _scale(shape: tuple[int, int]) -> float:
    longer = max(shape)
    return min(max(longer, _SMALLEST), _LARGEST) / longer


def draw_regions(image: np.ndarray, mask: np.ndarray | None, boxes: Sequence[Sequence[float]],
                 points: Sequence[Sequence[float]],
                 gt_mask: np.ndarray | None = None) -> np.ndarray:
    """:func:`draw_answer` without any text: the image, enlarged or reduced, with all regions."""
    scale = _scale(image.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])  # width, height
    resample = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    canvas = np.array(Image.fromarray(image).resize(size, resample))
    line = max(2, round(max(size) / 350))
    if mask is not None:
        region = _resize_mask(mask, size)
        canvas[region] = (canvas[region] * (1 - _OPACITY) + np.array(MASK) * _OPACITY).astype(
            np.uint8)
        _outline(canvas, region, MASK, line)
    if gt_mask is not None:
        _outline(canvas, _resize_mask(gt_mask, size), TRUTH, line)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    # Coordinates from a model may lie anywhere; drawing needs them near the picture.
    to_canvas = [size[0] / image.shape[1], size[1] / image.shape[0]]
    for box in boxes:
        corners = np.clip(np.array(box, float).reshape(2, 2) * to_canvas, 0, np.array(size) - 1)
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        for thickness, color in ((line + 1, (0, 0, 0)), (line, BOX)):
            draw.rectangle([left, top, right, bottom], outline=color, width=thickness)
    for point in points:
        x, y = np.clip(np.array(point, float) * to_canvas, 0, np.array(size) - 1)
        radius = 2.5 * line
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=POINT,
                     outline=(255, 255, 255), width=max(1, line // 2))
    return np.array(picture)


def _resize_mask(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    return np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _outline(canvas: np.ndarray, region: np.ndarray, color: tuple[int, int, int],
             line: int) -> None:
    """Draw the region's outline into the canvas: the color on a wider white line."""
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP,
                                   cv2.CHAIN_APPROX_NONE)
    for thickness, ink in ((line + 2, (255, 255, 255)), (line, color)):
        cv2.drawContours(canvas, contours, -1, ink, thickness, cv2.LINE_AA)


def _stack(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
    """Join two pictures vertically (axis 0) or horizontally (axis 1); the shorter is padded."""
    other = 1 - axis
    longest = max(first.shape[other], second.shape[other])

    def padded(picture: np.ndarray) -> np.ndarray:
        pad = [(0, 0)] * 3
        pad[other] = (0, longest - picture.shape[other])
        return np.pad(picture, pad, constant_values=_BACKGROUND)
    return np.concatenate([padded(first), padded(second)], axis=axis)
