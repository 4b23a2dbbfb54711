# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Response text -> :class:`ReasoningOutput` or :class:`ParseFailure`; never an exception."""

from __future__ import annotations

import json
import re
from typing import Any

from mmdpad.structures import ParseFailure, ReasoningOutput

FAILURE_REASONS = {
    'no_answer': 'there is no <answer> block',
    'no_json': 'the answer holds no JSON object that can be read',
    'missing_key': 'bbox, points_1 or points_2 is missing',
    'bad_value': 'a coordinate is not a finite number, or there are too few or too many',
    'empty_box': 'the box has no area: x2 <= x1 or y2 <= y1',
}

_THINK_THEN_ANSWER = re.compile(r'</think>\s*<answer>')
_ANSWER_THEN_CAPTION = re.compile(r'</answer>\s*<caption>')


def follows_template(text: str, caption: bool = True) -> bool:
    """Whether the whole text is think, answer and caption in this order (blanks between them).

    The same as a full match of ``<think>.*?</think>\\s*<answer>.*?</answer>\\s*<caption>.*?
    </caption>``, in time linear in the text's length. Without ``caption`` the text ends with
    ``</answer>``.
    """
    end = '</caption>' if caption else '</answer>'
    if not (text.startswith('<think>') and text.endswith(end)):
        return False
    last = _THINK_THEN_ANSWER.search(text, len('<think>'))
    if caption and last:
        last = _ANSWER_THEN_CAPTION.search(text, last.end())
    return last is not None and last.end() <= len(text) - len(end)


def parse_response(text: str,
                   reference_compatible: bool = False) -> ReasoningOutput | ParseFailure:
    """Read a response.

    Args:
        text: Anything a model may have written.
        reference_compatible: Where no <answer> block holds a JSON object, fall back to the first
            ``{...}`` anywhere in the text, as the reference implementation always does.

    Returns:
        A :class:`ReasoningOutput` when the answer has a box with area and two points, else a
        :class:`ParseFailure` with one of ``FAILURE_REASONS``. Missing or empty think and caption
        tags are no failure (they cost the format reward).
    """
    think, after_think = _between(text, 'think', 0)
    body, after_answer = _between(text, 'answer', after_think)
    caption, _ = _between(text, 'caption', after_answer)
    parts: dict[str, Any] = {'think': think, 'caption': caption}

    answer = None if body is None else _first_object(body)
    if answer is None and reference_compatible:
        answer = find_reference_object(text)
    if answer is None:
        reason = 'no_answer' if body is None else 'no_json'
        return ParseFailure(reason, FAILURE_REASONS[reason], **parts)

    box = _numbers(answer.get('bbox'), 4)
    first, second = (_numbers(answer.get(key), 2) for key in ('points_1', 'points_2'))
    found: dict[str, Any] = {
        'box': box,
        'points': None if first is None or second is None else (first, second),
    }
    missing = [key for key in ('bbox', 'points_1', 'points_2') if key not in answer]
    if missing:
        return ParseFailure('missing_key', f'missing: {", ".join(missing)}', **parts, **found)
    if box is None or found['points'] is None:
        detail = f'answer: {json.dumps(answer)[:200]}'
        return ParseFailure('bad_value', detail, **parts, **found)
    if box[2] <= box[0] or box[3] <= box[1]:
        return ParseFailure('empty_box', f'bbox: {list(box)}', **parts, **found)
    return ReasoningOutput(**parts, **found)


def find_reference_object(text: str) -> dict[str, Any] | None:
    """The first ``{...}`` without an inner closing brace, if it is a JSON object (reference).

    What ``re.search(r'{[^}]+}', text)`` finds, in linear time.
    """
    begin = text.find('{')
    while begin >= 0:
        end = text.find('}', begin)
        if end < 0:
            return None
        if end > begin + 1:
            return _load_object(text[begin:end + 1])
        begin = text.find('{', end)
    return None


def _between(text: str, tag: str, start: int) -> tuple[str | None, int]:
    """The stripped text of the first ``<tag>..</tag>`` from ``start`` on, and where it ends."""
    opening, closing = f'<{tag}>', f'</{tag}>'
    begin = text.find(opening, start)
    end = text.find(closing, begin + len(opening)) if begin >= 0 else -1
    if end < 0:
        return None, start
    return text[begin + len(opening):end].strip(), end + len(closing)


def _first_object(body: str) -> dict[str, Any] | None:
    """The JSON object between the first opening and the last closing brace (fences allowed)."""
    begin, end = body.find('{'), body.rfind('}')
    return _load_object(body[begin:end + 1]) if 0 <= begin < end else None


def _load_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _numbers(value: Any, count: int) -> Any:
    """``count`` finite floats from a JSON list, as a tuple; None if it holds anything else."""
    if not isinstance(value, list) or len(value) != count:
        return None
    numbers = []
    for item in value:
        if isinstance(item, bool) or not isinstance(item, (int, float)):
            return None
        # No picture has such pixels; an integer of 400 digits has not even a float.
        if not abs(item) < 1e9:
            return None
        numbers.append(float(item))
    return tuple(numbers)


