# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The single source for the form of prompts and responses.

``mmdpad.prompts.parser`` reads what :func:`format_response` writes; a test checks this, also for
the example in the template.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mmdpad.geometry.coordinates import check_coordinates, round_coordinate

TAGS = ('think', 'answer', 'caption')
"""Names of the tags in a response, in order."""
OBJECT_KEYS = ('bbox', 'points_1', 'points_2')
"""Keys of an answer about one object: its box, then its points (DPAD, Seg-Zero)."""
OBJECTS_KEYS = ('bbox_2d', 'point_2d')
"""Keys of each entry in an answer that is a list of objects (VisionReasoner)."""
NEGATIVES_KEY = 'negative_points'
"""Optional key of an object in either form: points that are not of it."""
DETECTION_KEYS = ('bbox_2d', 'label', 'description')
"""Keys of each entry in an answer that detects objects by class."""
ANSWER_KEYS = ('answer', 'evidence')
"""Keys of an answer in words: the words, and a list of the boxes that show it."""
ZOOM_TAGS = '<zoom>', '</zoom>'
"""Around the box of a part of the image that the policy asks for (:mod:`mmdpad.prompts.zoom`)."""
MASK_TAGS = '<mask>', '</mask>'
"""Around an answer whose mask the policy asks for."""


def format_response(think: str, box: Sequence[float], points: Sequence[Sequence[float]],
                    caption: str, coordinates: str = 'pixels',
                    negative_points: Sequence[Sequence[float]] = ()) -> str:
    """Write a response about one object in the form that the format reward accepts.

    Args:
        think: The reasoning.
        box: (x1, y1, x2, y2) in the policy's coordinates.
        points: Two (x, y) in the policy's coordinates.
        caption: Describes the object in the box.
        coordinates: Those coordinates, which decide on the rounding: to integers, or thousandths
            for 'relative_1'.
        negative_points: (x, y) of points that are not of the object, which are only written if
            there are any.

    Returns:
        ``<think>..</think>``, ``<answer>{json}</answer>`` and ``<caption>..</caption>``, separated
        by line breaks.
    """
    return _response(think, _entry(OBJECT_KEYS, box, points, negative_points, coordinates), caption)


def format_objects_response(think: str, objects: Sequence[tuple[Any, ...]], caption: str,
                            coordinates: str = 'pixels') -> str:
    """:func:`format_response` for an answer that is a list.

    Args:
        think, caption, coordinates: As in :func:`format_response`.
        objects: Box and points of each object, of which only the first is written, and optionally
            its negative points. An empty list means "no target".
    """
    return _response(think, [
        _entry(OBJECTS_KEYS, box, points, negatives[0] if negatives else (), coordinates)
        for box, points, *negatives in objects], caption)


def format_detections(think: str,
                      objects: Sequence[tuple[Sequence[float], str, str | None]],
                      coordinates: str = 'pixels') -> str:
    """Write a response that detects objects by class. It has no caption, since each object has its
    own description.

    Args:
        think, coordinates: As in :func:`format_response`.
        objects: Box, class name and description of each object; a description of None is left out.
            An empty list means "none of these classes".
    """
    entries = []
    for box, label, description in objects:
        entry: dict[str, Any] = dict(bbox_2d=_rounded(box, coordinates), label=label)
        entries.append(entry if description is None else dict(entry, description=description))
    return _response(think, entries)


def format_question_answer(think: str, answer: str, evidence: Sequence[Sequence[float]],
                           caption: str | None, coordinates: str = 'pixels') -> str:
    """Write a response that answers a question in words.

    Args:
        think, coordinates: As in :func:`format_response`.
        answer: The answer in words.
        evidence: Boxes of what shows it; may be empty.
        caption: Describes what the boxes hold; None leaves it out.
    """
    boxes = [_rounded(box, coordinates) for box in evidence]
    return _response(think, dict(zip(ANSWER_KEYS, (answer, boxes), strict=True)), caption)


def format_zoom(box: Sequence[float], coordinates: str = 'pixels') -> str:
    """Write a call that asks for a part of the image, which follows the reasoning of a turn.

    Args:
        box: (x1, y1, x2, y2) in the policy's coordinates, of the image that was shown last.
        coordinates: As in :func:`format_response`.

    >>> format_zoom((10, 100, 200, 210))
    '<zoom>[10, 100, 200, 210]</zoom>'
    """
    return json.dumps(_rounded(box, coordinates)).join(ZOOM_TAGS)


def _entry(keys: tuple[str, ...], box: Sequence[float], points: Sequence[Sequence[float]],
           negatives: Sequence[Sequence[float]], coordinates: str) -> dict[str, Any]:
    values = (box, *points)[:len(keys)]
    entry = {key: _rounded(item, coordinates) for key, item in zip(keys, values, strict=True)}
    return entry | ({NEGATIVES_KEY: [_rounded(point, coordinates) for point in negatives]}
                    if negatives else {})


def _rounded(values: Sequence[float], coordinates: str) -> list[float]:
    return [round_coordinate(v, coordinates) for v in values]


def _response(think: str, answer: Any, caption: str | None = None) -> str:
    # Labels and descriptions in letters, as models write them, not as escapes (\\u00e9).
    # A tag in them would end the answer; JSON reads the escaped slash as a slash.
    written = json.dumps(answer, ensure_ascii=False).replace('</', r'<\/')
    text = f'<think>{think}</think>\n<answer>{written}</answer>'
    return text if caption is None else f'{text}\n<caption>{caption}</caption>'


_UNITS = dict(
    pixels='in pixels of this image',
    relative_1000="in coordinates from 0 to 1000, x of this image's width and y of its height",
    relative_1="in coordinates normalized to [0,1], x by this image's width and y by its height")
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
_EXCLUDE = (
    ' If something beside the object could be taken for a part of it, add "negative_points", a '
    'list of points on that; else leave them out.')
_DETECT = (
    'Detect these in the image: {question}. Look for every instance of each class, and for none of '
    'any other. First reason between <think> and </think>. Then answer between <answer> and '
    '</answer> with a JSON list {coordinates}: for each instance its bounding box (x1, y1, x2, '
    'y2), its class as written above, and a description that cannot be taken for any other '
    'instance in the image; an empty list [] if there is none.')
_ZOOM = (
    '\nIf you cannot see enough, do not answer yet: after your reasoning write the box of a part '
    'of the image, as in {call}, and you are shown that part enlarged. Coordinates always refer to '
    'the image that you were shown last.')
_MASK = (
    ' To check an answer before you give it, write it between <mask> and </mask> instead of '
    '<answer> and </answer>, and you are shown the same image with its mask outlined.')
_ANSWER = (
    'Answer the question "{question}" about the image. Look for what shows the answer. First '
    'reason between <think> and </think>. Then answer between <answer> and </answer> with JSON: '
    '"answer", a word, a number or a short phrase, and "evidence", a list of bounding boxes '
    '(x1, y1, x2, y2) {coordinates}, one for each object or text that shows the answer; an empty '
    'list [] if nothing in particular does.')


def _examples(coordinates: str) -> dict[str, str]:
    """An example response to each template, by the template's name. Pixels and coordinates from 0
    to 1000 have the same numbers."""
    scale = 1e-3 if coordinates == 'relative_1' else 1
    box, a, b, other, point, beside = ([scale * v for v in values] for values in (
        (10, 100, 200, 210), (30, 110), (35, 180), (225, 296, 706, 786), (302, 410), (150, 190)))
    think, instance = 'your reasoning', ('class', 'a description of the instance')
    return dict(
        default=format_response(think, box, (a, b), 'a description of the object', coordinates),
        negative_points=format_response(
            think, box, (a, b), 'a description of the object', coordinates, [beside]),
        several_objects=format_objects_response(
            think, [(box, (a, b)), (other, (point, ))], 'a description of the objects',
            coordinates),
        zoom=format_zoom(box, coordinates),
        detection=format_detections(think, [(box, *instance), (other, *instance)], coordinates),
        question_answering=format_question_answer(
            think, 'your answer', [box, other], 'a description of what the boxes hold',
            coordinates))


EXAMPLES = _examples('pixels')
"""Example responses that templates show, in pixels, by the name of the template; of 'zoom', the
call."""


def _template(instructions: str, example: str) -> str:
    example = example.replace('{', '{{').replace('}', '}}')
    return f'{instructions} Write in exactly this form:\n{example}'


def _templates(examples: dict[str, str]) -> dict[str, str]:
    one = examples['default']
    zoom = _template(_FIND + _DESCRIBE, one) + _ZOOM.format(call=examples['zoom'])
    return {
        'default': _template(_FIND + _DESCRIBE, one),
        'without_caption': _template(_FIND, one[:one.index('\n<caption>')]),
        'zoom': zoom,
        'zoom_and_mask': zoom + _MASK,
        'negative_points': _template(_FIND + _EXCLUDE + _DESCRIBE, examples['negative_points']),
        'several_objects': _template(_FIND_SEVERAL + _DESCRIBE_SEVERAL,
                                     examples['several_objects']),
        'detection': _template(_DETECT, examples['detection']),
        'question_answering': _template(_ANSWER + _DESCRIBE_SEVERAL,
                                        examples['question_answering']),
    }


TEMPLATES = _templates(EXAMPLES)
"""Prompt templates by name: DPAD's; the same without a caption (as in Seg-Zero); DPAD's with an
offer to look closer before the answer (:mod:`mmdpad.prompts.zoom`), and to check its mask; DPAD's
with negative points; one that asks for a list of objects; one that asks for all objects of some
classes; and one that asks for an answer in words and its evidence. :mod:`mmdpad.tasks` read their
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
    named = TEMPLATES if coordinates != 'relative_1' else _templates(_examples(coordinates))
    template = named.get(template, template)
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
