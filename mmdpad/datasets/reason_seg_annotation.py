# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Annotation files of ReasonSeg: JSON as the tool ``labelme`` writes it, polygons to masks.

A file holds ``text`` (a list of questions or phrases), ``is_sentence`` (whether they are whole
sentences, "long queries", or phrases) and ``shapes`` (polygons with a label). Polygons are in
pixels of the image after its EXIF rotation, (x, y). The way they become a mask follows LISA's
reader to the pixel, so that numbers compare.

Ours are the optional keys of :mod:`.annotation_fields`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from mmdpad.utils.masks import check_outline, check_parts

from .annotation_fields import (
    are_numbers,
    are_texts,
    parse_answer,
    parse_boxes,
    read_json,
    wrong_field,
)
from .errors import DatasetError

TARGET, IGNORE = 1, 255


@dataclass(frozen=True)
class Polygon:
    """A closed polygon: ``points`` (N, 2) int32, (x, y), N >= 1; it marks target or ignore."""
    points: np.ndarray
    is_ignored: bool


@dataclass(frozen=True)
class ReasonSegAnnotation:
    """What one annotation file says; ``polygons`` in the file's order, flags left out.

    ``other_boxes`` are (x1, y1, x2, y2) in pixels of the image; None where the file does not say.
    ``answer`` has those of ``ANSWER_KEYS`` that are in the file.
    """
    polygons: tuple[Polygon, ...]
    texts: tuple[str, ...]
    is_sentence: bool
    other_boxes: tuple[tuple[float, ...], ...] | None = None
    answer: dict[str, str] = field(default_factory=dict)


def read_reasonseg_annotation(
        path: str | os.PathLike, height: int,
        width: int) -> tuple[np.ndarray, np.ndarray, list[str], bool]:
    """Read a ReasonSeg annotation as masks of the given size.

    Args:
        path: A JSON file in UTF-8 (a byte-order mark is fine) or, where its bytes are not UTF-8,
            in cp1252.
        height: Height of the image in pixels, after its EXIF rotation.
        width: Its width.

    Returns:
        The target mask and the mask of the regions to leave out of the evaluation, both bool
        (height, width) and disjoint, then all texts and ``is_sentence``. A mask may be empty.

    Raises:
        DatasetError: The file cannot be read, is no JSON or not of ReasonSeg's form.
    """
    annotation = parse_annotation(path)
    target, ignore = draw_annotation(annotation, height, width, path)
    return target, ignore, list(annotation.texts), annotation.is_sentence


def draw_annotation(annotation: ReasonSegAnnotation, height: int, width: int,
                    where: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """:func:`draw_masks` of what a file holds.

    Raises:
        DatasetError: There are polygons that no image has (:func:`mmdpad.utils.masks.check_outline`
            and :func:`mmdpad.utils.masks.check_parts`).
    """
    try:
        check_parts(len(annotation.polygons))
        for polygon in annotation.polygons:
            check_outline(polygon.points, height, width)
    except ValueError as error:
        raise DatasetError(f'The polygons of {where} cannot be drawn: {error}; correct them, or '
                           'remove the file and its image', 'wrong annotation') from error
    return draw_masks(annotation.polygons, height, width)


def draw_masks(polygons: Sequence[Polygon], height: int,
               width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw polygons from the largest to the smallest, each over those before it.

    The outline belongs to a polygon, so one of one or two points still marks pixels; what lies
    outside of the image is cut off. Size is the number of pixels inside the image; among equals
    the one that comes first in the file is drawn last.

    OpenCV fills (outline included); since its version 4.11 a few pixels on edges, some 0.02 % of
    a mask, differ from those of earlier versions.

    Returns:
        Target and ignore mask, bool (height, width), disjoint.
    """
    if len(polygons) > 1:
        areas = [
            cv2.countNonZero(_draw(np.zeros((height, width), np.uint8), polygon, TARGET))
            for polygon in polygons
        ]
        polygons = [polygons[i] for i in np.argsort(areas, kind='stable')[::-1]]
    canvas = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        _draw(canvas, polygon, IGNORE if polygon.is_ignored else TARGET)
    return canvas == TARGET, canvas == IGNORE


def _draw(canvas: np.ndarray, polygon: Polygon, value: int) -> np.ndarray:
    return cv2.fillPoly(canvas, [polygon.points], color=value)


def parse_annotation(path: str | os.PathLike) -> ReasonSegAnnotation:
    """Read an annotation file and check its form.

    Polygons labelled ``flag`` are left out, those whose label contains ``ignore`` are ignored
    regions, all others are the target; case does not matter. Coordinates are truncated towards
    zero, as the reference does.

    Raises:
        DatasetError: The file cannot be read, is no JSON or not of ReasonSeg's form.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise wrong_field(path, 'content', 'an object with `text`, `is_sentence` and `shapes`',
                          content)
    missing = [key for key in ('text', 'is_sentence', 'shapes') if key not in content]
    if missing:
        raise DatasetError(f'{path} lacks {", ".join(f"`{key}`" for key in missing)}; '
                           'add it, or remove the file and its image', 'wrong annotation')
    texts, is_sentence, shapes = content['text'], content['is_sentence'], content['shapes']
    if not are_texts(texts):
        raise wrong_field(path, 'text', 'a list of at least one string', texts)
    if not isinstance(is_sentence, bool):
        raise wrong_field(path, 'is_sentence', 'true or false', is_sentence)
    if not isinstance(shapes, list):
        raise wrong_field(path, 'shapes', 'a list of polygons', shapes)
    polygons = (_parse_shape(path, f'shapes[{i}]', shape) for i, shape in enumerate(shapes))
    return ReasonSegAnnotation(tuple(p for p in polygons if p), tuple(texts), is_sentence,
                               parse_boxes(path, content), parse_answer(path, content))


def _parse_shape(path: str | os.PathLike, name: str, shape: object) -> Polygon | None:
    """One entry of ``shapes``; None for a flag."""
    if not isinstance(shape, dict) or not isinstance(shape.get('label'), str):
        raise wrong_field(path, name, 'an object with a string `label` and a list `points`', shape)
    label = shape['label'].lower()
    if label == 'flag':
        return None
    points = shape.get('points')
    if not isinstance(points, list) or not points or not all(are_numbers(p, 2) for p in points):
        raise wrong_field(path, f'{name}.points',
                          'a list of at least one [x, y], numbers in pixels of the image', points)
    return Polygon(np.array(points, dtype=np.float64).astype(np.int32), 'ignore' in label)
