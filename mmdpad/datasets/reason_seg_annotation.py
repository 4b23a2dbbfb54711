# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Annotation files of ReasonSeg: JSON as the tool ``labelme`` writes it, polygons to masks.

A file holds ``text`` (a list of questions or phrases), ``is_sentence`` (whether they are whole
sentences, "long queries", or phrases) and ``shapes`` (polygons with a label). Polygons are in
pixels of the image after its EXIF rotation, (x, y). The way they become a mask follows LISA's
reader to the pixel, so that numbers compare.

Ours are some optional keys: ``other_boxes`` names objects that are not the target, a list of
[x1, y1, x2, y2] in the same pixels; three strings serve supervised training
(:class:`.transforms.ComposeResponse`): ``think`` and ``caption``, the parts of a response that no
mask tells, or a whole ``response``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from .errors import DatasetError

# OpenCV fills polygons in 16-bit fixed point; beyond this, coordinates are no pixels anyway.
MAX_COORDINATE = 1_000_000
TARGET, IGNORE = 1, 255
ANSWER_KEYS = ('think', 'caption', 'response')
_TAGS = re.compile('</?(think|answer|caption)>')


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
    target, ignore = draw_masks(annotation.polygons, height, width)
    return target, ignore, list(annotation.texts), annotation.is_sentence


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
    content = _load_json(path)
    if not isinstance(content, dict):
        raise _wrong(path, 'content', 'an object with `text`, `is_sentence` and `shapes`', content)
    missing = [key for key in ('text', 'is_sentence', 'shapes') if key not in content]
    if missing:
        raise DatasetError(f'{path} lacks {", ".join(f"`{key}`" for key in missing)}; '
                           'add it, or remove the file and its image', 'wrong annotation')
    texts, is_sentence, shapes = content['text'], content['is_sentence'], content['shapes']
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise _wrong(path, 'text', 'a list of at least one string', texts)
    if not isinstance(is_sentence, bool):
        raise _wrong(path, 'is_sentence', 'true or false', is_sentence)
    if not isinstance(shapes, list):
        raise _wrong(path, 'shapes', 'a list of polygons', shapes)
    polygons = (_parse_shape(path, f'shapes[{i}]', shape) for i, shape in enumerate(shapes))
    other_boxes = _parse_boxes(path, content['other_boxes']) if 'other_boxes' in content else None
    return ReasonSegAnnotation(tuple(p for p in polygons if p), tuple(texts), is_sentence,
                               other_boxes, _parse_answer(path, content))


def _load_json(path: str | os.PathLike) -> object:
    try:
        with open(path, 'rb') as file:
            raw = file.read()
    except OSError as error:
        raise DatasetError(f'{path} cannot be read ({error.strerror}); restore the file or its '
                           'permissions') from error
    try:
        text = raw.decode('utf-8-sig')
    except UnicodeDecodeError:
        try:
            text = raw.decode('cp1252')
        except UnicodeDecodeError as error:
            raise DatasetError(f'{path} should be text in UTF-8 or cp1252, but is neither; '
                               'save it as UTF-8') from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(f'{path} should hold JSON, but: {error}; restore the file, or remove '
                           'it and its image') from error


def _parse_answer(path: str | os.PathLike, content: dict) -> dict[str, str]:
    """The given parts of a response; a tag inside of ``think`` or ``caption`` would break it."""
    answer = {key: content[key] for key in ANSWER_KEYS if key in content}
    for key, text in answer.items():
        if not isinstance(text, str) or not text.strip():
            raise _wrong(path, key, 'a string with text in it', text)
        if key != 'response' and _TAGS.search(text):
            raise _wrong(path, key, 'text without the tags of a response', text)
    return answer


def _parse_shape(path: str | os.PathLike, name: str, shape: object) -> Polygon | None:
    """One entry of ``shapes``; None for a flag."""
    if not isinstance(shape, dict) or not isinstance(shape.get('label'), str):
        raise _wrong(path, name, 'an object with a string `label` and a list `points`', shape)
    label = shape['label'].lower()
    if label == 'flag':
        return None
    points = shape.get('points')
    if not isinstance(points, list) or not points or not all(_are_numbers(p, 2) for p in points):
        raise _wrong(path, f'{name}.points',
                     'a list of at least one [x, y], numbers in pixels of the image', points)
    return Polygon(np.array(points, dtype=np.float64).astype(np.int32), 'ignore' in label)


def _parse_boxes(path: str | os.PathLike, boxes: object) -> tuple[tuple[float, ...], ...]:
    if not isinstance(boxes, list):
        raise _wrong(path, 'other_boxes', 'a list of boxes', boxes)
    for i, box in enumerate(boxes):
        if not (_are_numbers(box, 4) and box[0] < box[2] and box[1] < box[3]):
            raise _wrong(path, f'other_boxes[{i}]', '[x1, y1, x2, y2], numbers in pixels of the '
                         'image, with x1 < x2 and y1 < y2', box)
    return tuple(tuple(map(float, box)) for box in boxes)


def _are_numbers(values: object, count: int) -> bool:
    """A list of ``count`` plain numbers within bounds; NaN fails the comparison."""
    return (isinstance(values, list) and len(values) == count
            and all(type(v) in (int, float) and abs(v) <= MAX_COORDINATE for v in values))


def _wrong(path: str | os.PathLike, name: str, wanted: str, got: object) -> DatasetError:
    shown = repr(got)
    shown = shown if len(shown) <= 80 else shown[:77] + '...'
    return DatasetError(f'`{name}` of {path} should be {wanted}, but got {shown}; correct it, or '
                        'remove the file and its image', 'wrong annotation')
