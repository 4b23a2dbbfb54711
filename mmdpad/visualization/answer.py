# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""One picture per answer: question, mask, reasoning and caption."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from mmdpad.geometry.masks import decode_mask

from .regions import Boxes, Regions, draw_regions
from .text_panel import draw_text_panel

_BACKGROUND = 255


def draw_answer(image: np.ndarray,
                mask: np.ndarray | None = None,
                boxes: Boxes = (),
                points: Sequence[Sequence[float]] = (),
                question: str = '',
                think: str | None = None,
                caption: str | None = None,
                gt_mask: np.ndarray | None = None,
                note: str | None = None,
                panel: bool = True,
                answer: str | None = None,
                labels: Sequence[str] = (),
                descriptions: Sequence[str] = (),
                right: Sequence[bool | None] = (),
                gt_boxes: Boxes = (),
                gt_labels: Sequence[str] = (),
                other_masks: Sequence[np.ndarray] = (),
                negative_points: Sequence[Sequence[float]] = ()) -> np.ndarray:
    """Draw mask, boxes and points on the image, with the texts beside it or (if it is wide) below.

    Small images are enlarged and large ones reduced so that lines and text are readable. Labels
    for which there is no room are left out, and the legend says how many.

    Args:
        image: (H, W, 3) uint8 RGB, the original frame.
        mask: (H, W) bool, the predicted region.
        boxes: XYXY in pixels of ``image``.
        points, negative_points: (x, y) in pixels of ``image``.
        question, think, caption: The question, the reasoning and the caption.
        gt_mask: (H, W) bool, the true region; drawn as an outline.
        note: A further line, such as an IoU or the reason for a failure.
        panel: Whether to put the texts and a legend beside or below the image.
        answer: The answer in words.
        labels: A text at each box, such as its class and score.
        descriptions: A text about each box for the panel, after its label.
        right: Whether each box is right, None for neither right nor wrong; empty if unknown.
        gt_boxes, gt_labels: The true boxes, and a text at each.
        other_masks: bool (H, W) each, regions of answers that were not chosen.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        ValueError: The image is not uint8 (H, W, 3), a mask has another size, or there are not as
            many texts as boxes.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f'`image` should be a uint8 array (H, W, 3), but got {image.dtype} '
                         f'{image.shape}')
    for name, texts, of, number in (
            ('labels', labels, 'boxes', len(boxes)), ('right', right, 'boxes', len(boxes)),
            ('descriptions', descriptions, 'boxes', len(boxes)),
            ('gt_labels', gt_labels, 'gt_boxes', len(gt_boxes))):
        if len(texts) not in (0, number):
            raise ValueError(f'`{name}` should have an entry for each of the {number} `{of}`, or '
                             f'none, but has {len(texts)}')
    picture, legend = draw_regions(image, Regions(mask, boxes, labels, right, points, gt_mask,
                                                  gt_boxes, gt_labels, other_masks,
                                                  negative_points))
    if not panel:
        return picture
    said = '\n'.join(': '.join(filter(None, both)) for both in zip_longest(labels, descriptions)
                     if both[1])
    sections = [('Question', question), ('Reasoning', think or ''), ('Answer', answer or ''),
                ('Caption', caption or ''), ('Objects', said), ('Result', note or '')]
    height, width = picture.shape[:2]
    font_size = max(14, round(max(height, width) / 55))
    if width > 1.25 * height:
        return _stack(picture, draw_text_panel(sections, legend, width, font_size), axis=0)
    panel_width = max(24 * font_size, width * 3 // 5)
    return _stack(picture, draw_text_panel(sections, legend, panel_width, font_size), axis=1)


def draw_row(image: np.ndarray, row: Mapping[str, Any], note: str | None = None,
             with_reasoning: bool = True) -> np.ndarray:
    """Draw a line of a result file.

    Args:
        image: (H, W, 3) uint8 RGB, the original frame.
        row: A line of :class:`ReasonSegMetric`, :class:`DetectionMetric` or
            :class:`QuestionAnsweringMetric`; without ``mask`` and ``target`` (``save_masks``), no
            masks are drawn.
        note: The last line of the picture; None for :func:`verdict`.
        with_reasoning: Whether to add reasoning, caption and descriptions to the panel.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        ValueError: A mask is broken or has another size than the image.
    """
    texts = dict(think=row.get('think'), caption=row.get('caption'),
                 descriptions=row.get('descriptions') or ()) if with_reasoning else {}
    return draw_answer(image, question=row['question'], note=note or verdict(row),
                       answer=row.get('answer'), **vars(regions_of(row)), **texts)


def regions_of(row: Mapping[str, Any]) -> Regions:
    """What :func:`draw_row` draws on the image.

    Raises:
        ValueError: A mask is broken.
    """
    mask, target = (None if row.get(name) is None else decode_mask(row[name])
                    for name in ('mask', 'target'))
    return Regions(
        mask, row.get('boxes') or (), label_texts(row.get('label_names', ()), row.get('scores')),
        row.get('box_right', ()), [*chain.from_iterable(row.get('points') or ())],
        target, row.get('target_boxes', row.get('evidence', ())), row.get('target_names', ()),
        negative_points=tuple(chain.from_iterable(row.get('negative_points', ()))))


def label_texts(names: Sequence[str], scores: Sequence[float] | None) -> list[str]:
    """The names of boxes, with their scores unless all are 1, as they are without a scorer."""
    if not names or not scores or all(score == 1 for score in scores):
        return list(names)
    return [f'{name} {score:.2f}' for name, score in zip(names, scores, strict=True)]


def verdict(row: Mapping[str, Any]) -> str:
    """The quality of the answer in a result file's line, in words; empty if it is not judged."""
    if row['failure']:
        return f'unusable answer: {row["failure"]}'
    if 'accuracy' in row:
        wanted = ', '.join(dict.fromkeys(row['answers']))
        seen = ('' if row['evidence_iou'] is None else
                f', evidence IoU {row["evidence_iou"]:.2f}')
        return f'accuracy {row["accuracy"]:.2f} (right: {wanted}){seen}'
    if 'missed' in row:
        invented = f' ({row["invented"]} with other labels)' if row['invented'] else ''
        counts = f'{row["right"]} right, {row["wrong"]} wrong{invented}, {row["missed"]} missed'
        return counts if row['targets'] else f'{counts}: there is no target'
    return f'IoU {row["iou"]:.2f}' if 'iou' in row else ''


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


def _stack(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
    """Join two pictures vertically (axis 0) or horizontally (axis 1); the shorter is padded."""
    other = 1 - axis
    longest = max(first.shape[other], second.shape[other])

    def padded(picture: np.ndarray) -> np.ndarray:
        pad = [(0, 0)] * 3
        pad[other] = (0, longest - picture.shape[other])
        return np.pad(picture, pad, constant_values=_BACKGROUND)
    return np.concatenate([padded(first), padded(second)], axis=axis)
