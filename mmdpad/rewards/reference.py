# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Scores one response as the published scorer does, including where that is lenient.

For comparing stored responses with published runs. Training uses the registered terms, which read
the answer with :func:`mmdpad.prompts.parse_response`. The reference is more lenient:

* it takes the first ``{...}`` anywhere in the text;
* the answer's format requires lists of the right length, whatever they hold;
* each geometric term needs only the entries that it uses (a box can be scored without points);
* points are truncated to integers, including quoted digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mmdpad.geometry.boxes import box_iou, box_l1, inside, matched_point_distance
from mmdpad.prompts import follows_template, parse_solution
from mmdpad.prompts.parser import find_reference_object


def score_response(text: str, solution: str) -> dict[str, float]:
    """Score a response against a solution as the published strict scorer does.

    Args:
        text: Raw response.
        solution: ``<box>(x1,y1),(x2,y2)</box><points>(x,y),(x,y)</points>``, in pixels of the model
            image.

    Returns:
        ``thinking_format``, ``segmentation_format``, ``box_iou_reward`` (IoU > 0.5),
        ``box_l1_reward`` (mean corner difference < 10), ``point_l1_reward`` (both points in the
        predicted box, mean matched distance < 100): 0 or 1; and ``box_iou``, the IoU itself.

    Raises:
        ValueError: ``solution`` does not have that form.
    """
    target_box, target_points = parse_solution(solution)

    answer = find_reference_object(text) or {}
    box = _box(answer)
    points = _points(answer)
    iou = 0.0 if box is None else _value(box_iou, box, target_box, beyond_floats=0.0)
    return {
        'thinking_format': float(follows_template(text)),
        'segmentation_format': float(_has_lists(answer)),
        'box_iou': iou,
        'box_iou_reward': float(iou > 0.5),
        'box_l1_reward': float(box is not None and _value(box_l1, box, target_box) < 10),
        'point_l1_reward': float(
            box is not None and points is not None and all(inside(p, box) for p in points)
            and _value(matched_point_distance, points, target_points) < 100),
    }


def _value(function: Callable[..., float], *of: Any, beyond_floats: float = math.inf) -> float:
    """A function's value, or ``beyond_floats`` if no float holds it (JSON integers are unbounded).
    """
    try:
        return function(*of)
    except OverflowError:
        return beyond_floats


def _has_lists(answer: dict[str, Any]) -> bool:
    lengths = {'bbox': 4, 'points_1': 2, 'points_2': 2}
    return all(isinstance(answer.get(key), list) and len(answer[key]) == length
               for key, length in lengths.items())


def _box(answer: dict[str, Any]) -> list[float] | None:
    """The box if it is four numbers (booleans count as 0 and 1, as in Python)."""
    box = answer.get('bbox')
    if isinstance(box, list) and len(box) == 4 and all(isinstance(v, (int, float)) for v in box):
        return box
    return None


def _points(answer: dict[str, Any]) -> list[list[int]] | None:
    """The first two entries of each point, truncated to integers; None if that fails."""
    try:
        return [[int(answer[key][i]) for i in (0, 1)] for key in ('points_1', 'points_2')]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return None
