# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Solutions in the prepared training data: a target's box and points in one line of text."""

from __future__ import annotations

import json
import re
from typing import Any

from .template import OBJECTS_KEYS

Pair = tuple[int, int]
Box = tuple[int, int, int, int]

_PAIR = r'\((\d{1,9}),(\d{1,9})\)'  # no image has more pixels along a side
_BOX = re.compile(rf'<box>{_PAIR},{_PAIR}</box>')
_POINTS = re.compile(rf'<points>{_PAIR},{_PAIR}</points>')


def parse_solution(text: str) -> tuple[Box, tuple[Pair, Pair]]:
    """Parse a solution.

    >>> parse_solution('<box>(10,20),(30,40)</box><points>(15,25),(18,30)</points>')
    ((10, 20, 30, 40), ((15, 25), (18, 30)))

    Args:
        text: ``<box>(x1,y1),(x2,y2)</box><points>(x,y),(x,y)</points>``, non-negative integers
            below 1e9, in pixels of the accompanying image (840 x 840 in the published copies).
            Text around the two tags is ignored.

    Returns:
        The box (x1, y1, x2, y2) and two points (x, y).

    Raises:
        ValueError: ``text`` does not have that form.
    """
    box, points = _BOX.search(text), _POINTS.search(text)
    if box is None or points is None:
        raise ValueError('`solution` should be "<box>(x1,y1),(x2,y2)</box><points>(x,y),(x,y)'
                         f'</points>" with non-negative integers, but got {text!r}')
    x1, y1, x2, y2 = (int(v) for v in box.groups())
    a_x, a_y, b_x, b_y = (int(v) for v in points.groups())
    return (x1, y1, x2, y2), ((a_x, a_y), (b_x, b_y))


def parse_objects_solution(text: str) -> list[tuple[Box, tuple[Pair, ...]]]:
    """Parse a solution of either kind: one object (:func:`parse_solution`) or a JSON list.

    >>> parse_objects_solution('[{"bbox_2d": [10, 20, 30, 40], "point_2d": [15, 25]}]')
    [((10, 20, 30, 40), ((15, 25),))]

    Args:
        text: As in :func:`parse_solution`; or, as in the multi-object copies (VisionReasoner), a
            list whose entries have ``bbox_2d`` [x1, y1, x2, y2] and ``point_2d`` [x, y], integers
            in the same range. An empty list means "no target".

    Returns:
        Box and points of each object; one point per object if the solution is a list.

    Raises:
        ValueError: ``text`` has neither form.
    """
    if not text.lstrip().startswith('['):
        return [parse_solution(text)]
    try:
        entries = json.loads(text)
        return [(_integers(entry[OBJECTS_KEYS[0]], 4), (_integers(entry[OBJECTS_KEYS[1]], 2), ))
                for entry in entries]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            '`solution` should be a JSON list of {"bbox_2d": [x1, y1, x2, y2], "point_2d": [x, y]} '
            f'with non-negative integers, but got {text[:200]!r} ({error})') from error


def _integers(values: Any, count: int) -> Any:
    """``count`` non-negative integers below 1e9 as a tuple."""
    if (not isinstance(values, list) or len(values) != count
            or not all(type(value) is int and 0 <= value < 10**9 for value in values)):
        raise ValueError(f'{values} instead of {count} numbers')
    return tuple(values)
