# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How well detected boxes with labels fit the targets of a question about classes.

Boxes and targets are matched one to one within each label (:class:`.DetectionMatcher`); x2 and y2
are outer edges in pixels of the model image. In all terms but :class:`RejectionReward`:

- an object whose label was not asked for ("invented"), whose box cannot be read, or that repeats a
  matched one is a mistake;
- an unmatched box on a crowd or an ignored object of its label, or with a label that the data mark
  incompletely, is neither right nor wrong, as in the evaluations of COCO and LVIS;
- if there is neither a target nor a mistake, a usable answer earns 1 and an unusable one 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mmdpad.geometry.detections import DetectionMatch, DetectionMatcher, DetectionTruth
from mmdpad.prompts.labels import normalize_label
from mmdpad.registry import REWARDS
from mmdpad.structures import ParseFailure, ReasoningOutput, RolloutBatch

INVENTED = -1
"""The label of an object whose class was not asked for."""
COCO_THRESHOLDS = tuple(np.arange(50, 100, 5) / 100)
"""IoU thresholds over which COCO averages AP."""


@dataclass(frozen=True)
class DetectedObjects:
    """The objects of an answer, compared with the targets.

    Attributes:
        matcher: Of the objects whose box can be read.
        labels: Labels of all M objects, -1 where the class was not asked for.
        usable: Whether the answer can be used.
    """

    matcher: DetectionMatcher
    labels: list[int]
    usable: bool

    @classmethod
    def of(cls, parsed: ReasoningOutput | ParseFailure, truth: DetectionTruth,
           names: dict[str, int]) -> DetectedObjects:
        """Compare an answer with the truth; ``names`` has the label of each class that was asked
        for, see :func:`asked_labels`."""
        labels = [names.get(normalize_label(item.label or ''), INVENTED)
                  for item in parsed.objects]
        boxed = [(item.box, label) for item, label in zip(parsed.objects, labels, strict=True)
                 if item.box is not None]
        return cls(DetectionMatcher([box for box, _ in boxed], [label for _, label in boxed],
                                    truth), labels, isinstance(parsed, ReasoningOutput))

    def count(self, match: DetectionMatch) -> int:
        """The number of objects that are right or wrong."""
        return len(self.labels) - len(match.ignored)

    def count_labels(self, match: DetectionMatch) -> Counter[int]:
        """The number of objects of each label that are right or wrong, see :meth:`count`."""
        counted = Counter(self.labels)
        counted.subtract(self.matcher.labels[i] for i in match.ignored)
        return counted


class DetectionReward(ABC):
    """Base of the terms about detected objects. A subclass scores one answer in :meth:`score`.

    Args:
        threshold: IoU that a match exceeds, in [0, 1). Below 0.5, a box may match one of two
            targets beside each other, so that repeating it may pay.

    Raises:
        ValueError: ``threshold`` is out of range.
    """

    def __init__(self, threshold: float = 0.5) -> None:
        if not 0 <= threshold < 1:
            raise ValueError(f'`threshold` should be an IoU in [0, 1), but got {threshold}')
        self.threshold = threshold

    def __call__(self, rollout: RolloutBatch) -> Tensor:
        """Returns a (B, G) tensor in [0, 1].

        Raises:
            ValueError: A prompt has no targets, or they have no labels.
        """
        _ = rollout.target_boxes  # raises where there are none
        asked = [(detection_truth(sample), asked_labels(sample))
                 for sample in rollout.data_samples]
        return rollout.per_response([
            self.score(DetectedObjects.of(parsed, *asked[row // rollout.group_size]))
            for row, parsed in enumerate(rollout.parsed)])

    @abstractmethod
    def score(self, found: DetectedObjects) -> float:
        """The value of one answer, in [0, 1]."""


@REWARDS.register_module()
class DetectionF1Reward(DetectionReward):
    """F1 of the detected objects: 2 TP / (M + N), with TP matches, M objects that are right or
    wrong, and N targets.

    Range [0, 1]. Source: beyond DPAD; F1 as in any evaluation at one operating point, see
    :class:`DetectionReward` for its argument.
    """

    def score(self, found: DetectedObjects) -> float:
        match = found.matcher.match(self.threshold)
        both = found.count(match) + len(found.matcher.truth.boxes)
        return 2 * len(match.pairs) / both if both else float(found.usable)


@REWARDS.register_module()
class DetectionIoUReward(DetectionReward):
    """The sum of the matches' IoUs, divided by the larger of M and N (as for
    :class:`DetectionF1Reward`).

    Range [0, 1]. Source: beyond DPAD; ``BoxIoUReward(threshold=None)`` with labels, for matches
    above the threshold only, see :class:`DetectionReward` for its argument.
    """

    def score(self, found: DetectedObjects) -> float:
        match = found.matcher.match(self.threshold)
        larger = max(found.count(match), len(found.matcher.truth.boxes))
        return match.iou / larger if larger else float(found.usable)


@REWARDS.register_module()
class DetectionAPReward(DetectionReward):
    """COCO's AP of one answer without scores: precision times recall, averaged over the IoU
    thresholds 0.5, 0.55, ..., 0.95 and over the classes that have a target or a mistake.

    With equal scores a class has a single point (recall, precision), and the area of its
    interpolated curve is their product. VLM-R1's reward for open-vocabulary detection calls COCO's
    evaluation with a score of 1 for each box, where ties count in the order of the list: a wrong
    box behind all right ones costs nothing there, nor does a class without targets, so it
    multiplies by min(1, N / M). Here the order does not matter, and a wrong box costs wherever it
    comes. But as in any AP, a class in which nothing is right is worth 0 however many mistakes it
    has: the second object of a class without targets, or the second invented one, costs nothing
    more. Use :class:`DetectionF1Reward` beside it, in which each of them costs.

    Range [0, 1]. Source: beyond DPAD; the idea is VLM-R1's (arXiv 2504.07615).

    Args:
        thresholds: IoUs that a match exceeds, each in [0, 1).

    Raises:
        ValueError: There are no thresholds, or one is out of range.
    """

    def __init__(self, thresholds: tuple[float, ...] = COCO_THRESHOLDS) -> None:
        if not thresholds:
            raise ValueError('`thresholds` should have at least one IoU, but is empty')
        for threshold in thresholds:
            super().__init__(threshold)
        self.thresholds = tuple(thresholds)

    def score(self, found: DetectedObjects) -> float:
        wanted = Counter(found.matcher.truth.labels)
        values = []
        for threshold in self.thresholds:
            match = found.matcher.match(threshold)
            counted = found.count_labels(match)
            right = Counter(found.matcher.labels[i] for i, _, _ in match.pairs)
            classes = wanted.keys() | {label for label, count in counted.items() if count}
            values.append(float(found.usable) if not classes else sum(
                right[label]**2 / (counted[label] * wanted[label])
                for label in classes if right[label]) / len(classes))
        return sum(values) / len(values)


@REWARDS.register_module()
class CountReward(DetectionReward):
    """Whether the number of objects is right: sum_c min(M_c, N_c) / sum_c max(M_c, N_c) over the
    classes c, where M_c objects and N_c targets have the class. Invented objects count as a class
    without targets.

    Boxes matter only for what is ignored. A missed object can be replaced by any other box of its
    class, so use it beside a term that looks at boxes.

    Range [0, 1], with ``exact`` {0, 1}. Source: beyond DPAD.

    Args:
        exact: 1 if the numbers of all classes are right, else 0.
        threshold: Overlap with an ignored box beyond which a box does not count.
    """

    def __init__(self, exact: bool = False, threshold: float = 0.5) -> None:
        super().__init__(threshold)
        self.exact = exact

    def score(self, found: DetectedObjects) -> float:
        match = found.matcher.match(self.threshold)
        counted = found.count_labels(match)
        wanted = Counter(found.matcher.truth.labels)
        larger = (counted | wanted).total()
        if not larger:
            return float(found.usable)
        share = (counted & wanted).total() / larger
        return float(share == 1) if self.exact else share


@REWARDS.register_module()
class RejectionReward(DetectionReward):
    """1 if an answer names no object exactly where there is no target, else 0.

    If the image has none of the classes, a usable answer without objects (apart from ignored ones)
    earns 1; if it has some, a usable answer with an object does.

    Range {0, 1}. Source: beyond DPAD; as N-acc and T-acc of gRefCOCO (arXiv 2306.00968).

    Args:
        threshold: Overlap with an ignored box beyond which a box does not count.
    """

    def score(self, found: DetectedObjects) -> float:
        if found.matcher.truth.boxes:
            return float(found.usable and bool(found.labels))
        return float(found.usable and not found.count(found.matcher.match(self.threshold)))


def asked_labels(sample: Any) -> dict[str, int]:
    """The data set's label of each class that a sample's question asks for, by its
    :func:`normalize_label`."""
    return {normalize_label(name): label for name, label in
            zip(sample.get('classes', ()), sample.get('class_labels', ()), strict=True)}


def detection_truth(sample: Any) -> DetectionTruth:
    """The targets of a data sample (``DetDataSample``) in the model frame.

    Raises:
        ValueError: Its targets have no labels.
    """
    targets = sample.model_targets
    if 'labels' not in targets:
        raise ValueError(f'Rewards for detection need labels of the targets, which the question '
                         f'{sample.get("question")!r} does not have; ask with '
                         f'`QuestionFromClasses`, or limit these rewards with '
                         f"`tasks=['detection']`")
    ignored = sample.get('model_ignored')
    boxes, labels, crowds = ([], [], []) if ignored is None else (
        ignored.bboxes.tolist(), ignored.labels.tolist(), ignored.crowds.tolist())
    return DetectionTruth(targets.bboxes.tolist(), targets.labels.tolist(), boxes, labels, crowds,
                          sample.get('not_exhaustive', ()))
