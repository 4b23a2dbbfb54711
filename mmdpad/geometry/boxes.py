# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Boxes (x1, y1, x2, y2) and points (x, y): distances, matching, and enclosing boxes. All inputs
of a call share one frame, in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mmdpad.structures.reasoning_output import Box

Numbers = Sequence[float]
Points = Sequence[Numbers]


def box_iou(box: Numbers, target: Numbers) -> float:
    """IoU with inclusive pixels: a side has x2 - x1 + 1 pixels (reference convention).

    Returns:
        A value in [0, 1]; 0 if the boxes do not overlap or one of them is inverted.
    """
    left, top = max(box[0], target[0]), max(box[1], target[1])
    right, bottom = min(box[2], target[2]), min(box[3], target[3])
    if not (left < right and top < bottom):
        return 0.0
    intersection = (right - left + 1) * (bottom - top + 1)
    return intersection / (_area(box) + _area(target) - intersection)


def box_l1(box: Numbers, target: Numbers) -> float:
    """Mean absolute difference of the four coordinates, in pixels."""
    return sum(abs(a - b) for a, b in zip(box, target, strict=True)) / 4


def matched_point_distance(points: Points, targets: Points) -> float:
    """Mean Euclidean distance of points to targets, in pixels. Two points are compared with two
    targets under the better matching; if either side has only one, the first ones are compared."""
    if min(len(points), len(targets)) < 2:
        return math.dist(points[0], targets[0])
    (a, b), (s, t) = points, targets
    return min(math.dist(a, s) + math.dist(b, t), math.dist(a, t) + math.dist(b, s)) / 2


def match_boxes(boxes: Sequence[Numbers], targets: Sequence[Numbers]) -> list[tuple[int, int]]:
    """Match M boxes to N targets one to one; gives min(M, N) index pairs (box, target).

    Maximizes the sum of IoUs (Hungarian algorithm). Ties, as among boxes that overlap no target,
    go to the pairs with the smallest coordinate differences.
    """
    if not boxes or not targets:
        return []
    from scipy.optimize import linear_sum_assignment  # not at the top: the import takes 0.2 s
    cost = np.array([[box_l1(box, target) for target in targets] for box in boxes])
    cost *= 1e-6 / max(cost.max(), 1)  # in total, less than any real gain in IoU
    cost -= [[box_iou(box, target) for target in targets] for box in boxes]
    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(cost), strict=True)]


def inside(point: Numbers, box: Numbers) -> bool:
    """Whether a point lies in a box, border included."""
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _area(box: Numbers) -> float:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)


def outer_edges(box: Numbers, pixel: tuple[float, float] = (1.0, 1.0)) -> Box:
    """A box XYXY with its last pixels inclusive, as one whose x2 and y2 are outer edges.

    Args:
        box: (x1, y1, x2, y2).
        pixel: (width, height) of the pixels that it was found in, in the box's unit.

    >>> outer_edges((5, 0, 5, 9))
    (5, 0, 6.0, 10.0)
    """
    return box[0], box[1], box[2] + pixel[0], box[3] + pixel[1]


def union_box(boxes: Sequence[Sequence[float]]) -> Box | None:
    """The smallest box XYXY that encloses all boxes; None if there are none."""
    if not boxes:
        return None
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def overlaps(box: Sequence[float], shape: tuple[float, float]) -> bool:
    """Whether a box XYXY in pixels covers any area of an image of shape (height, width)."""
    x1, y1, x2, y2 = box
    return max(x1, 0) < min(x2, shape[1]) and max(y1, 0) < min(y2, shape[0])


def covered_share(box: Sequence[float], shape: tuple[int, int]) -> float:
    """The share of an image of shape (height, width) that a box XYXY in pixels covers."""
    x1, y1, x2, y2 = box
    height, width = shape
    return (max(min(x2, width) - max(x1, 0), 0) * max(min(y2, height) - max(y1, 0), 0)
            / (height * width))


def contained_share(box: Sequence[float], other: Sequence[float]) -> float:
    """The share of the area of a box XYXY, which has one, that lies in another box.

    >>> contained_share((0, 0, 4, 2), (3, 1, 9, 9))
    0.125
    """
    width, height = (max(min(box[axis + 2], other[axis + 2]) - max(box[axis], other[axis]), 0)
                     for axis in (0, 1))
    return width * height / ((box[2] - box[0]) * (box[3] - box[1]))


def enlarge(box: Sequence[float], margin: float) -> Box:
    """Move every side of a box XYXY outward by a fraction of the box's width or height.

    Args:
        box: (x1, y1, x2, y2); the result has the same frame and unit.
        margin: Fraction per side, not negative; 0.5 doubles width and height.
    """
    x1, y1, x2, y2 = box
    dx, dy = margin * (x2 - x1), margin * (y2 - y1)
    return x1 - dx, y1 - dy, x2 + dx, y2 + dy
