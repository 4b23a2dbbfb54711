# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The single source for the form of prompts and responses.

``mmdpad.prompts.parser`` reads what :func:`format_response` writes; a test checks this, also for
the example in the template.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mmdpad.geometry.coordinates import check_coordinates

TAGS = ('think', 'answer', 'caption')
"""Names of the tags in a response, in order."""
OBJECT_KEYS = ('bbox', 'points_1', 'points_2')
"""Keys of an answer about one object: its box, then its points (DPAD, Seg-Zero)."""
OBJECTS_KEYS = ('bbox_2d', 'point_2d')
"""Keys of each entry in an answer that is a list of objects (VisionReasoner)."""
DETECTION_KEYS = ('bbox_2d', 'label', 'description')
"""Keys of each entry in an answer that detects objects by class."""


def format_response(think: str, box: Sequence[float], points: Sequence[Sequence[float]],
                    caption: str) -> str:
    """Write a response about one object in the form that the format reward accepts.

    Args:
        think: The reasoning.
        box: (x1, y1, x2, y2) in the policy's coordinates; rounded to integers.
        points: Two (x, y) in the policy's coordinates; rounded to integers.
        caption: Describes the object in the box.

    Returns:
        ``<think>..</think>``, ``<answer>{json}</answer>`` and ``<caption>..</caption>``, separated
        by line breaks.
    """
    return _response(think, _entry(OBJECT_KEYS, box, points), caption)


def format_objects_response(think: str,
                            objects: Sequence[tuple[Sequence[float], Sequence[Sequence[float]]]],
                            caption: str) -> str:
    """:func:`format_response` for an answer that is a list.

    Args:
        think, caption: As in :func:`format_response`.
        objects: Box and points of each object; only the first point is written. An empty list
            means "no target".
    """
    return _response(think, [_entry(OBJECTS_KEYS, *item) for item in objects], caption)


def format_detections(think: str,
                      objects: Sequence[tuple[Sequence[float], str, str | None]]) -> str:
    """Write a response that detects objects by class. It has no caption, since each object has its
    own description.

    Args:
        think: As in :func:`format_response`.
        objects: Box, class name and description of each object; a description of None is left out.
            An empty list means "none of these classes".
    """
    entries = []
    for box, label, description in objects:
        entry: dict[str, Any] = dict(bbox_2d=[round(v) for v in box], label=label)
        entries.append(entry if description is None else dict(entry, description=description))
    return _response(think, entries)


def _entry(keys: tuple[str, ...], box: Sequence[float],
           points: Sequence[Sequence[float]]) -> dict[str, list[int]]:
    values = (box, *points)[:len(keys)]
    return {key: [round(v) for v in item] for key, item in zip(keys, values, strict=True)}


def _response(think: str, answer: Any, caption: str | None = None) -> str:
    # Labels and descriptions in letters, as models write them, not as escapes (\\u00e9).
    written = json.dumps(answer, ensure_ascii=False)
    text = f'<think>{think}</think>\n<answer>{written}</answer>'
    return text if caption is None else f'{text}\n<caption>{caption}</caption>'


_UNITS = dict(
    pixels='in pixels of this image',
    relative_1000="in coordinates from 0 to 1000, x of this image's width and y of its height")
_FIND = (
    'Find "{question}" in the image. Compare the objects that could be meant and settle on the '
    'single best match. First reason between <think> and </think>. Then answer between <answer> '
    'and </answer> with JSON {coordinates}: the bounding box of the object '
    '(x1, y1, x2, y2) and two points inside it, each at the center of one of its widest parts.')
_FIND_SEVERAL = (
    'Find "{question}" in the image: one object, several, or none. Compare all that could be '
    'meant and keep those that match. First reason between <think> and </think>. Then answer '
    'between <answer> and </answer> with a JSON list {coordinates}: for each object its '
    'bounding box (x1, y1, x2, y2) and a point inside it, at the center of its widest part; an '
    'empty list [] if nothing matches.')
_DESCRIBE = (
    ' Last, between <caption> and </caption>, describe what the box holds so that it cannot be '
    'taken for anything else in the image.')
_DESCRIBE_SEVERAL = (
    ' Last, between <caption> and </caption>, describe what the boxes hold so that it cannot be '
    'taken for anything else in the image.')
_DETECT = (
    'Detect these in the image: {question}. Look for every instance of each class, and for none of '
    'any other. First reason between <think> and </think>. Then answer between <answer> and '
    '</answer> with a JSON list {coordinates}: for each instance its bounding box (x1, y1, x2, '
    'y2), its class as written above, and a description that cannot be taken for any other '
    'instance in the image; an empty list [] if there is none.')
# Numbers that are valid in either coordinate convention.
_EXAMPLE_BOX, _EXAMPLE_POINTS = (10, 100, 200, 210), ((30, 110), (35, 180))
EXAMPLE_RESPONSE = format_response('your reasoning', _EXAMPLE_BOX, _EXAMPLE_POINTS,
                                   'a description of the object')
EXAMPLE_OBJECTS_RESPONSE = format_objects_response(
    'your reasoning', [(_EXAMPLE_BOX, _EXAMPLE_POINTS), ((225, 296, 706, 786), ((302, 410), ))],
    'a description of the objects')
EXAMPLE_DETECTIONS_RESPONSE = format_detections(
    'your reasoning', [(_EXAMPLE_BOX, 'class', 'a description of the instance'),
                       ((225, 296, 706, 786), 'class', 'a description of the instance')])


def _template(instructions: str, example: str) -> str:
    example = example.replace('{', '{{').replace('}', '}}')
    return f'{instructions} Write in exactly this form:\n{example}'


TEMPLATES = {
    'default': _template(_FIND + _DESCRIBE, EXAMPLE_RESPONSE),
    'without_caption': _template(_FIND, EXAMPLE_RESPONSE[:EXAMPLE_RESPONSE.index('\n<caption>')]),
    'several_objects': _template(_FIND_SEVERAL + _DESCRIBE_SEVERAL, EXAMPLE_OBJECTS_RESPONSE),
    'detection': _template(_DETECT, EXAMPLE_DETECTIONS_RESPONSE),
}
"""Prompt templates by name: DPAD's; the same without a caption (as in Seg-Zero); one that asks for
a list of objects; and one that asks for all objects of some classes. :mod:`mmdpad.tasks` read their
answers."""


def normalize_question(text: str) -> str:
    """Make a question :func:`well_formed`, lowercase it, and strip surrounding whitespace and
    trailing periods (published protocol).

    >>> normalize_question(' The dog that barks... ')
    'the dog that barks'
    """
    return well_formed(text).strip().lower().rstrip('. ')


def well_formed(text: str) -> str:
    r"""Replace every lone surrogate, which JSON can contain and no tokenizer accepts.

    >>> well_formed('a\ud800b')
    'a�b'
    """
    return text.encode('utf-16-le', 'surrogatepass').decode('utf-16-le', 'replace')


def build_messages(question: str, template: str = 'default',
                   coordinates: str = 'pixels') -> list[dict[str, Any]]:
    """One user turn, image first, for a processor's ``apply_chat_template``.

    Args:
        question: A normalized question, see :func:`normalize_question`.
        template: A name in :data:`TEMPLATES`, or text with the placeholder ``{question}`` and
            optionally ``{coordinates}``, which becomes the unit of the answer. Double literal
            braces, as in ``str.format``.
        coordinates: One of :data:`.coordinates.COORDINATES`: those the answer should use.

    Raises:
        ValueError: The template lacks ``{question}`` or has another placeholder, or
            ``coordinates`` is unknown.
    """
    check_coordinates(coordinates)
    template = TEMPLATES.get(template, template)
    try:
        text = template.format(question=question, coordinates=_UNITS[coordinates])
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f'A template (`prompt_template`) should contain `{{question}}`, '
                         f'optionally `{{coordinates}}`, and no other placeholder, but got '
                         f'{template!r}; double literal braces') from error
    if '{question}' not in template:
        raise ValueError(f'A template (`prompt_template`) should be one of {sorted(TEMPLATES)} or '
                         f'contain `{{question}}`, but got {template!r}')
    return [{'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': text}]}]
