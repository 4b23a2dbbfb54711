# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Where the objects of an answer are in the text of its response."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from .parser import find_brackets, find_parts, load_json
from .template import DETECTION_KEYS

Place = tuple[int, int]
"""The first character, and the one after the last."""
Places = dict[str, Place]
"""Where an object's entry is ('object'), and in it the JSON values of its 'box' and its 'label',
brackets and quotes included; without those that it lacks."""

_scan = json.JSONDecoder().raw_decode
_SPACE = re.compile(r'[ \t\n\r]*')


def locate_detections(text: str) -> list[Places]:
    """Find the entries that :func:`.parser.parse_detections` reads, in time linear in the text's
    length.

    Args:
        text: Anything a model may have written.

    Returns:
        The places of each entry of the answer's list, in its order; empty without a list. If an
        entry repeats a key, the value is the last one, as for the parser.
    """
    answer = find_parts(text)['answer']
    listed = None if answer is None else find_brackets(text[answer], '[]')
    if answer is None or listed is None:
        return []
    written = text[answer][listed]
    if load_json(written) is None:
        return []
    box_key, label_key, _ = DETECTION_KEYS
    named = {box_key: 'box', label_key: 'label'}
    shift = answer.start + listed.start
    try:
        return [{name: (start + shift, end + shift) for name, (start, end) in (
            ('object', place), *((named[key], value) for key, value in _members(written, place[0])
                                 if key in named))} for place in _items(written)]
    except RecursionError:  # at a depth at which it could just be read
        return []


def _items(text: str) -> Iterator[Place]:
    """The places of the elements of a JSON list."""
    place = _skip(text, 1)
    while text[place] != ']':
        end = _scan(text, place)[1]
        yield place, end
        place = _next(text, end)


def _members(text: str, start: int) -> Iterator[tuple[str, Place]]:
    """The keys of the JSON object that begins at ``start``, and the places of their values; nothing
    of another value."""
    if text[start] != '{':
        return
    place = _skip(text, start + 1)
    while text[place] != '}':
        key, end = _scan(text, place)
        value = _skip(text, _skip(text, end) + 1)  # behind the colon
        end = _scan(text, value)[1]
        yield key, (value, end)
        place = _next(text, end)


def _next(text: str, end: int) -> int:
    """The start of the next item behind one that ends at ``end``, or the closing bracket."""
    place = _skip(text, end)
    return _skip(text, place + 1) if text[place] == ',' else place


def _skip(text: str, start: int) -> int:
    """The first place from ``start`` on that is not whitespace."""
    found = _SPACE.match(text, start)
    assert found is not None
    return found.end()
