# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Instances found in an image, and how well they match an answer's boxes and points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmdpad.geometry.boxes import box_iou

from .packed_masks import PackedMasks

# Separates equal matches, and is less than any real difference between two matches.
_TIE = 1e-9


@dataclass(frozen=True)
class Instances:
    """The instances that a detector found in an image, the most confident first.

    Attributes:
        masks: n masks in the original frame, packed; ``masks[index]`` gives tensors.
        scores: (n,) float in [0, 1].
    """

    masks: PackedMasks
    scores: Tensor

    @property
    def boxes(self) -> Tensor:
        """(n, 4) float, XYXY in pixels, both ends inclusive: the tight boxes of the masks."""
        return self.masks.boxes.float() - torch.tensor([0, 0, 1, 1])

    @classmethod
    def of(cls, masks: Tensor, scores: Tensor) -> Instances:
        """Sort instances by their confidence. Those without a single pixel are left out.

        Args:
            masks: (n, H, W) bool.
            scores: (n,) float.
        """
        return cls.concatenate([cls(PackedMasks.of(masks), scores.cpu())])

    @classmethod
    def concatenate(cls, parts: Iterable[Instances]) -> Instances:
        """:meth:`of` for what was found in several parts, at least one."""
        parts = list(parts)
        masks = PackedMasks.concatenate(part.masks for part in parts)
        scores = torch.cat([part.scores for part in parts])
        some = masks.boxes.any(1).nonzero()[:, 0]
        scores, order = scores[some].sort(descending=True, stable=True)
        return cls(masks.select(some[order]), scores)


def instance_ious(found: Instances, boxes: np.ndarray) -> np.ndarray:
    """Compute the IoU of each requested box with the tight box of each instance's mask, by
    :func:`mmdpad.geometry.boxes.box_iou`.

    Args:
        found: n instances.
        boxes: (N, 4), XYXY in pixels, both ends inclusive.

    Returns:
        (N, n) float64 in [0, 1].
    """
    return np.array([[box_iou(box, own) for own in found.boxes.tolist()] for box in boxes]
                    ).reshape(len(boxes), len(found.boxes))


def match_instances(found: Instances, boxes: np.ndarray, points: np.ndarray,
                    negatives: Sequence[np.ndarray] | np.ndarray = ()) -> np.ndarray:
    """Score how well each instance matches each requested object: the IoU of their boxes, plus the
    share of the object's points that lie in the instance's mask (each in its nearest pixel), minus
    that of its negative points.

    Args:
        found: n instances.
        boxes: (N, 4), XYXY in pixels, both ends inclusive.
        points: (N, P, 2), (x, y) in pixels, inside the image.
        negatives: N arrays (Q, 2) likewise, Q of any number; or empty, for none.

    Returns:
        (N, n) float64 in [-1, 2].
    """
    match = instance_ious(found, boxes) + _share_inside(found, points)
    for row, own in enumerate(negatives):
        match[row] -= _share_inside(found, own[None])[0]
    return match


def _share_inside(found: Instances, points: np.ndarray) -> np.ndarray:
    """The share (N, n) of points (N, P, 2) that lie in each of n masks; 0 without points."""
    columns, rows = np.floor(points + 0.5).astype(int).transpose(2, 0, 1)
    inside = found.masks.at(rows, columns)  # (n, N, P)
    return (inside.sum(axis=2) / max(points.shape[1], 1)).T


def assign_instances(found: Instances, boxes: np.ndarray, points: np.ndarray,
                     min_iou: float, negatives: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Give each requested object an instance of its own, so that the sum of
    :func:`match_instances` is highest. Ties go to the more confident instances.

    Args:
        found, boxes, points, negatives: As for :func:`match_instances`.
        min_iou: A box and an instance with a lower IoU (:func:`instance_ious`) are never paired,
            nor are those with a match of 0 or less.

    Returns:
        (N,) int, the index of the instance; -1 for an object that gets none.
    """
    from scipy.optimize import linear_sum_assignment  # not at the top: the import takes 0.2 s
    chosen = np.full(len(boxes), -1)
    match = match_instances(found, boxes, points, negatives)
    fits = (instance_ious(found, boxes) >= min_iou) & (match > 0)
    gain = match + _TIE * np.arange(len(found.scores), 0, -1)
    for row, column in zip(*linear_sum_assignment(np.where(fits, gain, 0), maximize=True),
                           strict=True):
        if fits[row, column]:
            chosen[row] = column
    return chosen
