# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Read ReasonSeg's annotation files, JSON as written by ``labelme``, and draw their masks.

A file contains ``text`` (a list of questions or phrases), ``is_sentence`` (whether they are
complete sentences, "long queries", or phrases) and labeled ``shapes`` (:mod:`.labelme_shapes`).
Points are (x, y) in pixels of the image after its EXIF rotation. Drawing shapes as a mask follows
LISA's reader to the pixel, so that numbers are comparable.

mmdpad adds the optional keys of :mod:`.annotation_fields`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mmdpad.geometry.masks import check_parts

from .annotation_fields import are_texts, parse_answer, parse_boxes, read_json, wrong_field
from .errors import DatasetError
from .labelme_shapes import Shape, parse_shape

TARGET, IGNORE = 1, 255


@dataclass(frozen=True)
class ReasonSegAnnotation:
    """The content of an annotation file; ``shapes`` are in the file's order, without flags.

    ``size`` is the (height, width) of the image if labelme wrote the file; ``other_boxes`` are (x1,
    y1, x2, y2) in pixels of the image. Both are None if the file does not say. ``answer`` has those
    of ``ANSWER_KEYS`` that are in the file.
    """
    shapes: tuple[Shape, ...]
    texts: tuple[str, ...]
    is_sentence: bool
    size: tuple[int | None, int | None] = (None, None)
    other_boxes: tuple[tuple[float, ...], ...] | None = None
    answer: dict[str, str] = field(default_factory=dict)


def read_reasonseg_annotation(
        path: str | os.PathLike, height: int,
        width: int) -> tuple[np.ndarray, np.ndarray, list[str], bool]:
    """Read a ReasonSeg annotation as masks of the given size.

    Args:
        path: A JSON file in UTF-8 (a byte-order mark is fine) or, failing that, in cp1252.
        height: Height of the image in pixels, after its EXIF rotation.
        width: Its width.

    Returns:
        The target mask and the mask of the regions that the evaluation leaves out, both bool
        (height, width) and disjoint, then all texts and ``is_sentence``. A mask may be empty.

    Raises:
        DatasetError: The file cannot be read, is not JSON, or does not have ReasonSeg's form.
    """
    annotation = parse_annotation(path)
    target, ignore = draw_annotation(annotation, height, width, path)
    return target, ignore, list(annotation.texts), annotation.is_sentence


def draw_annotation(annotation: ReasonSegAnnotation, height: int, width: int,
                    where: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Check the content of a file and call :func:`draw_masks`.

    Raises:
        DatasetError: Shapes are too large, too complex or too many (:mod:`.labelme_shapes`,
            :func:`mmdpad.geometry.masks.check_parts`), or the file states another image size.
    """
    if any(stated not in (None, real) for stated, real in
           zip(annotation.size, (height, width), strict=True)):
        raise DatasetError(
            f'`imageHeight` and `imageWidth` of {where} should be those of its image after the '
            f'EXIF rotation, ({height}, {width}), but got {annotation.size}: its shapes are in '
            'pixels of another image; use the image that was annotated, or save the annotation '
            'again with labelme', 'wrong size')
    try:
        check_parts(len(annotation.shapes))
        for shape in annotation.shapes:
            shape.check(height, width)
    except ValueError as error:
        raise DatasetError(f'The shapes of {where} cannot be drawn: {error}; correct them, or '
                           'remove the file and its image', 'wrong annotation') from error
    return draw_masks(annotation.shapes, height, width)


def draw_target(annotation: ReasonSegAnnotation, height: int, width: int,
                where: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """:func:`draw_annotation`, with an empty target only if none was drawn in the image: there is
    no target shape, its values are all background, or ignored regions cover it.

    Raises:
        DatasetError: As in :func:`draw_annotation`, or all target shapes lie outside the image.
    """
    target, ignore = draw_annotation(annotation, height, width, where)
    drawn = [shape for shape in annotation.shapes if not shape.is_ignored]
    if not target.any() and drawn and all(shape.is_outside(height, width) for shape in drawn):
        raise DatasetError(
            f'{where} marks no target pixel in its image of {width} x {height} pixels (width x '
            'height): its shapes lie outside; correct it, or remove the file and its image',
            'empty mask')
    return target, ignore


def draw_masks(shapes: Sequence[Shape], height: int,
               width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw shapes from the largest to the smallest, each over the previous ones.

    A polygon includes its outline, so even one with one or two points marks pixels. What lies
    outside the image is cut off. Size is the number of pixels inside the image; among shapes of
    equal size, the first in the file is drawn last.

    OpenCV fills polygons, outline included. Since OpenCV 4.11 a few edge pixels, about 0.02 % of a
    mask, differ from earlier versions.

    Returns:
        Target and ignore mask, bool (height, width), disjoint.
    """
    if len(shapes) > 1:
        areas = [shape.area(height, width) for shape in shapes]
        shapes = [shapes[i] for i in np.argsort(areas, kind='stable')[::-1]]
    canvas = np.zeros((height, width), np.uint8)
    for shape in shapes:
        shape.draw(canvas, IGNORE if shape.is_ignored else TARGET)
    return canvas == TARGET, canvas == IGNORE


def parse_annotation(path: str | os.PathLike) -> ReasonSegAnnotation:
    """Read an annotation file and check its form, with :func:`.labelme_shapes.parse_shape` for its
    shapes.

    Raises:
        DatasetError: The file cannot be read, is not JSON, or does not have ReasonSeg's form.
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
        raise wrong_field(path, 'shapes', 'a list of polygons or other shapes', shapes)
    # Trusted only if labelme wrote the file; LISA's reader ignores these keys.
    size = ((content.get('imageHeight'), content.get('imageWidth')) if 'version' in content
            else (None, None))
    parsed = (parse_shape(path, f'shapes[{i}]', shape) for i, shape in enumerate(shapes))
    return ReasonSegAnnotation(
        tuple(shape for shape in parsed if shape), tuple(texts), is_sentence,
        size, parse_boxes(path, content), parse_answer(path, content))
