# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Response text -> :class:`ReasoningOutput` or :class:`ParseFailure`; never an exception."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mmdpad.structures import AnsweredObject, ParseFailure, ReasoningOutput

from .template import (
    ANSWER_KEYS,
    DETECTION_KEYS,
    NEGATIVES_KEY,
    OBJECT_KEYS,
    OBJECTS_KEYS,
    TAGS,
    well_formed,
)

# Whatever can be read from an entry, and the reason and detail if something cannot.
_Read = tuple[AnsweredObject, tuple[str, str] | None]

FAILURE_REASONS = {
    'no_answer': 'there is no <answer> block',
    'no_json': 'the answer contains no readable JSON object or list of objects',
    'missing_key': 'the box, a point or the label of an object, or the answer in words is missing',
    'bad_value': 'a coordinate is not a finite number, there are too few or too many, or a label '
                 'or the answer in words is not a text',
    'empty_box': 'the box has no area: x2 <= x1 or y2 <= y1',
    'too_many': 'the list has more objects than an answer may have',
}
MAX_OBJECTS = 100
"""Default limit on the objects in an answer: as many detections as COCO's evaluation counts per
image, and several times what fits into the published response length."""
MAX_NEGATIVES = 16
"""Limit on the negative points of an object, which all go into each step of a mask decoder."""
# Longer answers are not read. This is twenty times what 100 objects need; parsing JSON may need
# many times its length in time and memory.
_LONGEST_ANSWER = 100_000

_THINK_THEN_ANSWER = re.compile(r'</think>\s*<answer>')
_ANSWER_THEN_CAPTION = re.compile(r'</answer>\s*<caption>')
_OPENED = re.compile(r'\{[^}]')


def follows_template(text: str, caption: bool = True) -> bool:
    r"""Whether the text consists of think, answer and caption in this order, with only whitespace
    between them.

    Equivalent to a full match of ``<think>.*?</think>\s*<answer>.*?</answer>\s*<caption>.*?
    </caption>``, but in time linear in the text's length. Without ``caption`` the text ends with
    ``</answer>``.
    """
    end = '</caption>' if caption else '</answer>'
    if not (text.startswith('<think>') and text.endswith(end)):
        return False
    last = _THINK_THEN_ANSWER.search(text, len('<think>'))
    if caption and last:
        last = _ANSWER_THEN_CAPTION.search(text, last.end())
    return last is not None and last.end() <= len(text) - len(end)


def parse_response(text: str, reference_compatible: bool = False,
                   several_objects: bool = False, max_objects: int = MAX_OBJECTS,
                   negative_points: bool = False) -> ReasoningOutput | ParseFailure:
    """Parse a response, in time and memory linear in its length.

    Args:
        text: Anything a model may have written.
        reference_compatible: If no <answer> block contains a JSON object, fall back to the first
            ``{...}`` anywhere in the text, as the reference implementation always does.
        several_objects: The answer is a JSON list of objects; an empty list means "no target".
            Otherwise the answer is a single object. :mod:`.template` has both forms.
        max_objects: The longest list accepted; no object of a longer list is read.
        negative_points: Read the optional ``negative_points`` of objects, a list of at most
            :data:`MAX_NEGATIVES` points (x, y); otherwise they are ignored like any unknown key. A
            null is like an empty list, and anything else is a failure like a bad point.

    Returns:
        A :class:`ReasoningOutput` if every object in the answer has its points and a box with
        positive area, otherwise a :class:`ParseFailure` with one of ``FAILURE_REASONS``. Missing
        or empty think and caption tags are not failures (they lose the format reward). JSON of
        more than 100,000 characters counts as missing.
    """
    parts, body = read_parts(text)
    answer = None if body is None else _bracketed(body, '[]' if several_objects else '{}')
    if answer is None and reference_compatible and not several_objects:
        answer = find_reference_object(text)
    read = partial(_read_object, keys=OBJECTS_KEYS if several_objects else OBJECT_KEYS,
                   negative_points=negative_points)
    if several_objects:
        return _finish(parts, body, answer, read, max_objects)
    return _finish(parts, body, None if answer is None else [answer], read)


def parse_detections(text: str,
                     max_objects: int = MAX_OBJECTS) -> ReasoningOutput | ParseFailure:
    """Parse a response that detects objects by class, as :func:`parse_response` does.

    Args:
        text: Anything a model may have written. The answer is a JSON list of objects
            (:func:`.template.format_detections`); an empty list means "none of these classes".
        max_objects: As in :func:`parse_response`.

    Returns:
        A :class:`ReasoningOutput` if every object in the answer has a label and a box with positive
        area. A description may be missing. Labels are as written; compare them by
        :func:`normalize_label`.
    """
    parts, body = read_parts(text)
    return _finish(parts, body, None if body is None else _bracketed(body, '[]'), _read_detection,
                   max_objects)


def parse_question_answer(text: str,
                          max_objects: int = MAX_OBJECTS) -> ReasoningOutput | ParseFailure:
    """Parse a response that answers a question in words, as :func:`parse_response` does.

    Args:
        text: Anything a model may have written. The answer is a JSON object
            (:func:`.template.format_question_answer`).
        max_objects: Maximum number of boxes of evidence, as in :func:`parse_response`.

    Returns:
        A :class:`ReasoningOutput` if there is an answer in words, a text or a number, and each box
        of evidence has a positive area. An answer without evidence (the key is missing, the list is
        empty or null) is usable, with no objects. Evidence without an answer is not.
    """
    parts, body = read_parts(text)
    values = None if body is None else _bracketed(body, '{}')
    if values is None:
        return _finish(parts, body, None, _read_evidence)
    answer_key, evidence_key = ANSWER_KEYS
    parts['answer'] = _words(values.get(answer_key))
    evidence = values.get(evidence_key)
    if evidence is not None and not isinstance(evidence, list):
        return ParseFailure('bad_value', f'answer: {_show(values)}', **parts)
    found = _finish(parts, body, evidence or [], _read_evidence, max_objects)
    if found.answer is not None or isinstance(found, ParseFailure):
        return found
    if answer_key in values:
        return ParseFailure('bad_value', f'answer: {_show(values)}', **parts)
    return ParseFailure('missing_key', f'missing: {answer_key}', **parts)


def read_parts(text: str) -> tuple[dict[str, Any], str | None]:
    """Find the parts of a response.

    Returns:
        ``think`` and ``caption``, and the text of the answer; None for a missing one. All are
        stripped.
    """
    parts = {tag: None if place is None else text[place]
             for tag, place in find_parts(text).items()}
    return parts, parts.pop('answer')


def after_reasoning(text: str) -> str:
    """What follows the reasoning of a response; empty while it is still in a <think> block, which
    may weigh answers and calls."""
    _, _, last = text.rpartition('</think>')
    return '' if '<think>' in last else last


def find_parts(text: str) -> dict[str, slice | None]:
    """Where the think, answer and caption of a response are in its text, without the whitespace
    around them; None for a missing one."""
    places: dict[str, slice | None] = {}
    start = 0
    for tag in TAGS:
        places[tag], start = _between(text, tag, start)
    return places


def _finish(parts: dict[str, Any], body: str | None, entries: Any, read: Callable[[Any], _Read],
            max_objects: int = 1) -> ReasoningOutput | ParseFailure:
    """Read the entries of an answer, None if it has no readable JSON."""
    if entries is None:
        reason = 'no_answer' if body is None else 'no_json'
        return ParseFailure(reason, FAILURE_REASONS[reason], **parts)
    if len(entries) > max_objects:
        return ParseFailure('too_many', f'{len(entries)} objects, more than {max_objects}', **parts)
    found = [read(entry) for entry in entries]
    parts['objects'] = tuple(item for item, _ in found)
    failure = next((failure for _, failure in found if failure), None)
    return ParseFailure(*failure, **parts) if failure else ReasoningOutput(**parts)


def _read_object(entry: Any, keys: Sequence[str], negative_points: bool) -> _Read:
    values = entry if isinstance(entry, dict) else {}
    box_key, *point_keys = keys
    points = tuple(read_numbers(values.get(key), 2) for key in point_keys)
    negatives = _read_points(values.get(NEGATIVES_KEY)) if negative_points else ()
    found = AnsweredObject(read_numbers(values.get(box_key), 4), None if None in points else points,
                           negative_points=negatives or ())
    return found, _find_failure(values, keys, found.box, found.points is None or negatives is None)


def _read_points(values: Any) -> tuple[Any, ...] | None:
    """A list of at most :data:`MAX_NEGATIVES` points, or null for none; None for anything else."""
    points = [] if values is None else values
    if not isinstance(points, list) or len(points) > MAX_NEGATIVES:
        return None
    found = tuple(read_numbers(point, 2) for point in points)
    return None if None in found else found


def _read_detection(entry: Any) -> _Read:
    values = entry if isinstance(entry, dict) else {}
    box_key, label_key, description_key = DETECTION_KEYS
    label, description = (_text(values.get(key)) for key in (label_key, description_key))
    found = AnsweredObject(read_numbers(values.get(box_key), 4), None, label, description)
    return found, _find_failure(values, (box_key, label_key), found.box, label is None)


def _read_evidence(entry: Any) -> _Read:
    evidence_key = ANSWER_KEYS[1]
    found = AnsweredObject(read_numbers(entry, 4), None)
    return found, _find_failure({evidence_key: entry}, (evidence_key, ), found.box, False)


def _find_failure(values: dict[str, Any], keys: Sequence[str], box: Any,
                  other_is_bad: bool) -> tuple[str, str] | None:
    """The reason and detail if an entry lacks one of its keys, the first of which is the box's, or
    the value of one is bad."""
    if missing := [key for key in keys if key not in values]:
        return 'missing_key', f'missing: {", ".join(missing)}'
    if box is None or other_is_bad:
        return 'bad_value', f'answer: {_show(values)}'
    if box[2] <= box[0] or box[3] <= box[1]:
        return 'empty_box', f'{keys[0]}: {list(box)}'
    return None


def find_reference_object(text: str) -> dict[str, Any] | None:
    """The first ``{...}`` without an inner closing brace, if it is a JSON object (reference).

    Finds what ``re.search(r'{[^}]+}', text)`` does, but in linear time; None if it is too long, as
    in :func:`parse_response`.
    """
    opened = _OPENED.search(text)
    end = text.find('}', opened.end()) if opened else -1
    if opened is None or end < 0:
        return None
    value = load_json(text[opened.start():end + 1])
    return value if isinstance(value, dict) else None


def _between(text: str, tag: str, start: int) -> tuple[slice | None, int]:
    """Where the first ``<tag>..</tag>`` after ``start`` has its text, stripped, and where it ends.
    """
    opening, closing = f'<{tag}>', f'</{tag}>'
    begin = text.find(opening, start)
    end = text.find(closing, begin + len(opening)) if begin >= 0 else -1
    if end < 0:
        return None, start
    inner = text[begin + len(opening):end]
    first = end - len(inner.lstrip())
    return slice(first, first + len(inner.strip())), end + len(closing)


def _bracketed(body: str, brackets: str) -> Any:
    """The JSON object or list that :func:`find_brackets` finds; None if it is not JSON."""
    place = find_brackets(body, brackets)
    return None if place is None else load_json(body[place])


def find_brackets(body: str, brackets: str) -> slice | None:
    """Where a text has its first opening to its last closing bracket (code fences are allowed)."""
    begin, end = body.find(brackets[0]), body.rfind(brackets[1])
    return slice(begin, end + 1) if 0 <= begin < end else None


def load_json(text: str) -> Any:
    """A JSON text's value; None if it is not JSON, too long or nested too deeply."""
    if len(text) > _LONGEST_ANSWER:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _show(values: dict[str, Any]) -> str:
    """The start of an entry as JSON, which may be read at a depth at which it cannot be written."""
    try:
        return json.dumps(values)[:200]
    except RecursionError:
        return f'{", ".join(values)}, nested too deeply to be shown'


def _text(value: Any) -> str | None:
    """A stripped text that is not empty; None for anything else."""
    return (well_formed(value).strip() or None) if isinstance(value, str) else None


def _words(value: Any) -> str | None:
    """An answer in words: a text that is not empty, or a finite number as one; None for anything
    else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _text(value)
    return str(value) if abs(value) < math.inf else None


def read_numbers(value: Any, count: int) -> Any:
    """Read ``count`` finite floats from a JSON list, as a tuple; None for anything else."""
    if not isinstance(value, list) or len(value) != count:
        return None
    numbers = []
    for item in value:
        if isinstance(item, bool) or not isinstance(item, (int, float)):
            return None
        # No image is that large, and an integer of 400 digits does not even fit a float.
        if not abs(item) < 1e9:
            return None
        numbers.append(float(item))
    return tuple(numbers)


