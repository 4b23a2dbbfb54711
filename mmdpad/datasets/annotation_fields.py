# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Annotation fields that several formats share, and their checks.

An annotation has one or more ``texts`` for one target. Optional fields are ``other_boxes``, a list
of [x1, y1, x2, y2] in pixels of the image after its EXIF rotation, for objects other than the
target, and three strings for supervised training (:class:`.transforms.ComposeResponse`):
``think`` and ``caption``, the parts of a response that do not follow from a mask, or a complete
``response``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any

from mmdpad.geometry.boxes import overlaps
from mmdpad.geometry.masks import is_coordinate
from mmdpad.prompts.template import normalize_question

from .errors import DatasetError

ANSWER_KEYS = ('think', 'caption', 'response')
TEXTS_MODES = ('first', 'all')
SEVERAL_IMAGES = ('a question is about one image: combine them to one, make a question of each, or '
                  'remove it')
"""Ends the message about a question with several images."""
_TAGS = re.compile('</?(think|answer|caption)>')

Where = str | os.PathLike


def check_texts_mode(texts: str) -> str:
    """Check and return the argument ``texts`` of a data set.

    Raises:
        ValueError: It is not one of ``TEXTS_MODES``.
    """
    if texts not in TEXTS_MODES:
        raise ValueError(f"`texts` should be 'first' or 'all', but got {texts!r}")
    return texts


def ask_texts(item: dict, texts: Sequence[str], mode: str) -> list[dict]:
    """One item that asks the first text (``mode`` 'first'), or one item per text ('all').

    If there are several items, '#' and ``text_index`` are appended to each ``img_id``.
    """
    asked = texts[:1] if mode == 'first' else texts
    several = len(asked) > 1
    return [
        dict(item, img_id=f'{item["img_id"]}#{i}' if several else item['img_id'],
             texts=list(texts), text_index=i, question=text) for i, text in enumerate(asked)
    ]


def check_question(text: object, name: str, where: Where) -> None:
    """Check that a text is a question; ``name`` is the field that contains it.

    Raises:
        DatasetError: It is not a string, or is empty.
    """
    if not isinstance(text, str) or not normalize_question(text):
        raise DatasetError(f'`{name}` of {where} should be a question, but got {text!r}; write '
                           'one, or remove it', 'empty question')


def check_questions(texts: Sequence[str], name: str, where: Where) -> None:
    """:func:`check_question` for every text in a list."""
    for i, text in enumerate(texts):
        check_question(text, f'{name}[{i}]', where)


def check_inside(boxes: Sequence[Sequence[float]], where: Where, height: int, width: int) -> None:
    """Check that each of ``other_boxes`` overlaps its image.

    Raises:
        DatasetError: One lies outside.
    """
    for i, box in enumerate(boxes):
        check_box_inside(box, f'other_boxes[{i}]', where, height, width)


def check_box_inside(box: Sequence[float], name: str, where: Where, height: int,
                     width: int) -> None:
    """Check that a box overlaps its image; ``name`` is that of its field.

    Raises:
        DatasetError: It lies outside.
    """
    if not overlaps(box, (height, width)):
        raise DatasetError(f'`{name}` of {where} should lie in its image of {width} x {height} '
                           f'pixels (width x height), at least partly, but got {list(box)}; '
                           f'correct or remove the box', 'box outside')


def parse_boxes(where: Where, content: dict) -> tuple[tuple[float, ...], ...] | None:
    """``other_boxes`` of an annotation; None if it has no such field.

    Raises:
        DatasetError: It is not a list of boxes with positive area.
    """
    if 'other_boxes' not in content:
        return None
    boxes = content['other_boxes']
    if not isinstance(boxes, list):
        raise wrong_field(where, 'other_boxes', 'a list of boxes', boxes)
    for i, box in enumerate(boxes):
        if not (are_numbers(box, 4) and box[0] < box[2] and box[1] < box[3]):
            raise wrong_field(where, f'other_boxes[{i}]', '[x1, y1, x2, y2], numbers in pixels of '
                              'the image, with x1 < x2 and y1 < y2', box)
    return tuple(tuple(map(float, box)) for box in boxes)


def parse_answer(where: Where, content: dict) -> dict[str, str]:
    """Those of ``ANSWER_KEYS`` that are present. A tag inside ``think`` or ``caption`` would break
    the response.

    Raises:
        DatasetError: One is not a string with text, or contains such a tag.
    """
    answer = {key: content[key] for key in ANSWER_KEYS if key in content}
    for key, text in answer.items():
        if not isinstance(text, str) or not text.strip():
            raise wrong_field(where, key, 'a string that is not empty', text)
        if key != 'response' and _TAGS.search(text):
            raise wrong_field(where, key, 'text without the tags of a response', text)
    return answer


def are_numbers(values: object, count: int) -> bool:
    """Whether this is a list of ``count`` numbers that are valid coordinates."""
    return isinstance(values, list) and len(values) == count and all(map(is_coordinate, values))


def are_texts(values: object) -> bool:
    """Whether this is a list of at least one string."""
    return isinstance(values, list) and bool(values) and all(isinstance(t, str) for t in values)


def wrong_field(where: Where, name: str, wanted: str, got: object) -> DatasetError:
    """The error for a malformed field."""
    shown = repr(got)
    shown = shown if len(shown) <= 80 else shown[:77] + '...'
    return DatasetError(f'`{name}` of {where} should be {wanted}, but got {shown}; correct it, or '
                        'remove the annotation', 'wrong annotation')


def read_text(path: Where) -> str:
    """Read a text file as UTF-8 (a byte-order mark is fine) or, failing that, as cp1252.

    Raises:
        DatasetError: It cannot be read, or has neither encoding.
    """
    try:
        with open(path, 'rb') as file:
            raw = file.read()
    except OSError as error:
        raise unreadable(path, error) from error
    for encoding in ('utf-8-sig', 'cp1252'):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DatasetError(f'{path} should be text in UTF-8 or cp1252, but is neither; save it as '
                       'UTF-8')


def unreadable(path: Where, error: OSError) -> DatasetError:
    """The error for a file that cannot be opened."""
    return DatasetError(f'{path} cannot be read ({error.strerror}); restore the file or its '
                        'permissions, or correct the path', 'missing file')


def read_json(path: Where) -> Any:
    """The content of a JSON file, read by :func:`read_text`.

    Raises:
        DatasetError: It cannot be read, or is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f'{path} should contain JSON, but: {error}; restore the file, or '
                           'correct it') from error
