# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Solutions of the prepared training data: a target's box and points in one line of text."""

from __future__ import annotations

import json
import re
from typing import Any

from .template import OBJECTS_KEYS

Pair = tuple[int, int]
Box = tuple[int, int, int, int]

_PAIR = r'\((\d{1,9}),(\d{1,9})\)'  # no picture has more pixels along a side
_BOX = re.compile(rf'<box>{_PAIR},{_PAIR}</box>')
_POINTS = re.compile(rf'<points>{_PAIR},{_PAIR}</points>')


def parse_solution(text: str) -> tuple[Box, tuple[Pair, Pair]]:
    """Read a solution.

    >>> parse_solution('<box>(10,20),(30,40)</box><points>(15,25),(18,30)</points>')
    ((10, 20, 30, 40), ((15, 25), (18, 30)))

    Args:
        text: ``<box>(x1,y1),(x2,y2)</box><points>(x,y),(x,y)</points>``, non-negative integers
            below 1e9, pixels of the image that goes with it (840 x 840 in the published copies).
            What stands around the two tags is left alone.

    Returns:
        The box (x1, y1, x2, y2) and two points (x, y).

    Raises:
        ValueError: ``text`` is not of that form.
    """
    box, points = _BOX.search(text), _POINTS.search(text)
    if box is None or points is None:
        raise ValueError('`solution` should be "<box>(x1,y1),(x2,y2)</box><points>(x,y),(x,y)'
                         f'</points>" with non-negative integers, but got {text!r}')
    x1, y1, x2, y2 = (int(v) for v in box.groups())
    a_x, a_y, b_x, b_y = (int(v) for v in points.groups())
    return (x1, y1, x2, y2), ((a_x, a_y), (b_x, b_y))


def parse_objects_solution(text: str) -> list[tuple[Box, tuple[Pair, ...]]]:
    """Read a solution of either kind: that of :func:`parse_solution`, one object, or a JSON list.

    >>> parse_objects_solution('[{"bbox_2d": [10, 20, 30, 40], "point_2d": [15, 25]}]')
    [((10, 20, 30, 40), ((15, 25),))]

    Args:
        text: As there; or a list whose entries have ``bbox_2d`` [x1, y1, x2, y2] and ``point_2d``
            [x, y], such integers, as the multi-object copies have it (VisionReasoner). An empty
            list: no target.

    Returns:
        Box and points of each object; one point each where the solution is a list.

    Raises:
        ValueError: ``text`` is of neither form.
    """
    if not text.lstrip().startswith('['):
        return [parse_solution(text)]
    try:
        entries = json.loads(text)
        return [(_whole(entry[OBJECTS_KEYS[0]], 4), (_whole(entry[OBJECTS_KEYS[1]], 2), ))
                for entry in entries]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            '`solution` should be a JSON list of {"bbox_2d": [x1, y1, x2, y2], "point_2d": [x, y]} '
            f'with non-negative integers, but got {text[:200]!r} ({error})') from error


def _whole(values: Any, count: int) -> Any:
    """``count`` non-negative integers below 1e9 as a tuple."""
    if (not isinstance(values, list) or len(values) != count
            or not all(type(value) is int and 0 <= value < 10**9 for value in values)):
        raise ValueError(f'{values} in place of {count} numbers')
    return tuple(values)
