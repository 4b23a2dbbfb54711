# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Match detected boxes with labels to targets, as evaluations of detectors do.

All boxes of a call are (x1, y1, x2, y2) in one frame; x2 and y2 are outer edges, as in COCO and
mmdet, so a side is x2 - x1 long.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

Boxes = Sequence[Sequence[float]]


@dataclass(frozen=True)
class DetectionTruth:
    """The targets of a question about classes.

    Attributes:
        boxes: N target boxes.
        labels: Their labels, N integers, not negative.
        ignored: n boxes that are neither targets nor mistakes, such as crowds and difficult
            objects.
        ignored_labels: Their labels.
        crowds: For each of them, whether it covers a group, see :func:`pairwise_iou`.
        not_exhaustive: Labels of which not every instance is marked: their unmatched boxes are no
            mistakes (LVIS).
    """

    boxes: Boxes
    labels: Sequence[int]
    ignored: Boxes = ()
    ignored_labels: Sequence[int] = ()
    crowds: Sequence[bool] = ()
    not_exhaustive: Collection[int] = ()


class DetectionMatch(NamedTuple):
    """Which detections are right.

    Attributes:
        pairs: (detection, target, IoU) of each match, one to one.
        ignored: Detections that are neither right nor wrong: without a target, but on an ignored
            box of their label, or with a label that is not exhaustively marked.
    """

    pairs: list[tuple[int, int, float]]
    ignored: set[int]

    @property
    def iou(self) -> float:
        """The sum of the IoUs of all matches."""
        return math.fsum(iou for _, _, iou in self.pairs)


def pairwise_iou(boxes: Boxes, targets: Boxes,
                 crowds: Sequence[bool] | None = None) -> np.ndarray:
    """(M, N) IoU of M boxes with N targets. With a crowd it is the share of the box that the crowd
    covers, as in COCO. An inverted box has IoU 0.

    >>> pairwise_iou([[0, 0, 2, 2]], [[0, 0, 4, 2], [1, 0, 9, 9]], [False, True]).tolist()
    [[0.5, 0.5]]
    """
    first = np.asarray(boxes, np.float64).reshape(-1, 1, 4)
    second = np.asarray(targets, np.float64).reshape(1, -1, 4)
    overlap = np.prod((np.minimum(first[..., 2:], second[..., 2:])
                       - np.maximum(first[..., :2], second[..., :2])).clip(min=0), axis=-1)
    area, target_area = (np.prod((some[..., 2:] - some[..., :2]).clip(min=0), axis=-1)
                         for some in (first, second))
    total = area + target_area - overlap
    if crowds is not None:
        total = np.where(np.asarray(crowds, bool)[None], area, total)
    return np.divide(overlap, total, out=np.zeros_like(total), where=total > 0)


@dataclass
class DetectionMatcher:
    """Matches M detections of an image to its targets at any IoU threshold.

    Attributes:
        boxes: M boxes.
        labels: Their labels; a negative one matches nothing and is always wrong.
        truth: The targets.
    """

    boxes: Boxes
    labels: Sequence[int]
    truth: DetectionTruth
    _groups: dict[int, _Group] = field(init=False)

    def __post_init__(self) -> None:
        found, wanted, ignored = map(_places, (self.labels, self.truth.labels,
                                               self.truth.ignored_labels))
        self._groups = {
            label: _Group.of(self, label, places, wanted[label], ignored[label])
            for label, places in list(found.items()) if label >= 0}

    def match(self, threshold: float) -> DetectionMatch:
        """Match boxes and targets of the same label whose IoU exceeds ``threshold``, one to one.

        As many targets as possible are matched (Hungarian algorithm). Among such matchings, one is
        taken that leaves as few mistakes as possible, then one with the largest sum of IoUs, so the
        order of the detections does not matter.
        """
        pairs, ignored = [], set()
        for group in self._groups.values():
            matched = list(group.match(threshold))
            pairs += [(group.places[i], group.wanted[j], iou) for i, j, iou in matched]
            no_mistake = group.ignorable > threshold
            for i, _, _ in matched:
                no_mistake[i] = False
            ignored.update(group.places[i] for i in no_mistake.nonzero()[0])
        return DetectionMatch(pairs, ignored)

    def count_duplicates(self, unmatched: Collection[int], threshold: float) -> int:
        """How many of some unmatched detections have an IoU beyond ``threshold`` with a target of
        their label, which another detection then has."""
        return sum(place in unmatched and bool((row > threshold).any())
                   for group in self._groups.values()
                   for place, row in zip(group.places, group.iou, strict=True))


@dataclass(frozen=True)
class _Group:
    """The detections and targets of a label.

    Attributes:
        places, wanted: Positions of m detections and n targets among all.
        iou: (m, n).
        ignorable: (m,) best overlap with an ignored box; 2 if every unmatched box is ignored.
    """

    places: list[int]
    wanted: list[int]
    iou: np.ndarray
    ignorable: np.ndarray

    @classmethod
    def of(cls, detected: DetectionMatcher, label: int, places: list[int], wanted: list[int],
           ignored: list[int]) -> _Group:
        truth = detected.truth
        boxes = [detected.boxes[i] for i in places]
        overlap = pairwise_iou(boxes, [truth.ignored[i] for i in ignored],
                               [truth.crowds[i] for i in ignored])
        ignorable = overlap.max(axis=1, initial=0.0)
        if label in truth.not_exhaustive:
            ignorable[:] = 2.0
        return cls(places, wanted, pairwise_iou(boxes, [truth.boxes[j] for j in wanted]),
                   ignorable)

    def match(self, threshold: float) -> Iterator[tuple[int, int, float]]:
        usable = self.iou > threshold
        if not usable.any():
            return
        from scipy.optimize import linear_sum_assignment  # not at the top: the import takes 0.2 s
        # The number of matches decides, then that of mistakes that are matched, then the IoU: each
        # sum over all pairs is below the step of the one before.
        step = 1 / (min(self.iou.shape) + 1)
        mistakes = (self.ignorable <= threshold)[:, None]
        gain = np.where(usable, 1 + step * mistakes + step**2 * self.iou, 0)
        for i, j in zip(*linear_sum_assignment(gain, maximize=True), strict=True):
            if usable[i, j]:
                yield int(i), int(j), float(self.iou[i, j])


def _places(labels: Sequence[int]) -> defaultdict[int, list[int]]:
    """Where each label occurs."""
    places: defaultdict[int, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        places[label].append(place)
    return places
