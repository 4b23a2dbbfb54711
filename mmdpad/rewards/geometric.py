# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How well boxes and points fit the ground truth (R_geo of DPAD, taken from Seg-Zero).

All boxes are (x1, y1, x2, y2) and all points (x, y), in pixels of the model image, or with
``frame='original'`` of the original image, in which small objects have more of them (targets are
then exact with ``TargetsFromMask(whole_pixels=False)``). Where answer and ground truth may hold
several objects, a term is the sum over matched pairs (:func:`match_boxes`) divided by the larger of
the two counts, so missed and superfluous objects cost the same. Where the question has no target,
an answer that says so earns 1. (VisionReasoner, arXiv 2505.12081, has these three terms and this
mean; it matches by their sum.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from mmdpad.geometry.boxes import (
    Numbers,
    Points,
    box_iou,
    box_l1,
    inside,
    match_boxes,
    matched_point_distance,
)
from mmdpad.geometry.coordinates import convert_answer, scale_pairs, shape_of
from mmdpad.registry import REWARDS
from mmdpad.structures import ParseFailure, ReasoningOutput, RolloutBatch

# The predicted box and points (None: points that could not be read), then the target's.
Score = Callable[[Numbers, Points | None, Numbers, Points], float]


@REWARDS.register_module()
class BoxIoUReward:
    """1 if the IoU of the predicted box with the target exceeds ``threshold``, else 0.

    Args:
        threshold: IoU to exceed, in [0, 1); None gives the IoU itself, in [0, 1].
        frame: 'model' or 'original', whose pixels are compared.
    """

    def __init__(self, threshold: float | None = 0.5, frame: str = 'model') -> None:
        check_frame(frame)
        self.threshold, self.frame = threshold, frame

    def __call__(self, rollout: RolloutBatch) -> Tensor:
        """Returns a (B, G) tensor in [0, 1]; 0 without a readable box."""
        return _mean_over_objects(rollout, self._score, self.frame)

    def _score(self, box: Numbers, points: Points | None, target_box: Numbers,
               target_points: Points) -> float:
        iou = box_iou(box, target_box)
        return iou if self.threshold is None else float(iou > self.threshold)


@REWARDS.register_module()
class BoxL1Reward:
    """1 if the mean corner difference is below ``threshold`` pixels of ``frame``, 'model' or
    'original'."""

    def __init__(self, threshold: float = 10.0, frame: str = 'model') -> None:
        check_frame(frame)
        self.threshold, self.frame = threshold, frame

    def __call__(self, rollout: RolloutBatch) -> Tensor:
        """Returns a (B, G) tensor in [0, 1], 0 or 1 for single objects; 0 without a readable
        box."""
        return _mean_over_objects(rollout, self._score, self.frame)

    def _score(self, box: Numbers, points: Points | None, target_box: Numbers,
               target_points: Points) -> float:
        return float(box_l1(box, target_box) < self.threshold)


@REWARDS.register_module()
class PointL1Reward:
    """1 if all points lie in the predicted box and on average within ``threshold`` of the target's.

    Args:
        threshold: Bound of :func:`matched_point_distance`, in pixels of ``frame``.
        frame: 'model' or 'original', whose pixels are compared.
    """

    def __init__(self, threshold: float = 100.0, frame: str = 'model') -> None:
        check_frame(frame)
        self.threshold, self.frame = threshold, frame

    def __call__(self, rollout: RolloutBatch) -> Tensor:
        """Returns a (B, G) tensor in [0, 1], 0 or 1 for single objects; 0 without a readable box
        and points."""
        return _mean_over_objects(rollout, self._score, self.frame)

    def _score(self, box: Numbers, points: Points | None, target_box: Numbers,
               target_points: Points) -> float:
        return float(points is not None and all(inside(point, box) for point in points)
                     and matched_point_distance(points, target_points) < self.threshold)


def check_frame(frame: str) -> None:
    """Raise ValueError unless this is a frame that terms can compare in."""
    if frame not in ('model', 'original'):
        raise ValueError(f"`frame` should be 'model' or 'original', but got {frame!r}; set one of "
                         f'them')


def _mean_over_objects(rollout: RolloutBatch, score: Score, frame: str) -> Tensor:
    """(B, G): the score of each response's objects against its prompt's targets, in a frame."""
    boxes: list[list[Numbers]] = [boxes.tolist() for boxes in rollout.target_boxes]
    points: list[list[Points]] = [points.tolist() for points in rollout.target_points]
    answers, size = rollout.parsed, rollout.group_size
    if frame == 'original':
        convert = to_original_frame(rollout)
        boxes = [[move(box) for box in own] for move, own in zip(convert, boxes, strict=True)]
        points = [[[*map(move, some)] for some in own]
                  for move, own in zip(convert, points, strict=True)]
        answers = [convert_answer(parsed, convert[row // size])
                   for row, parsed in enumerate(answers)]
    return rollout.per_response([
        score_objects(parsed, boxes[row // size], points[row // size], score)
        for row, parsed in enumerate(answers)])


def to_original_frame(rollout: RolloutBatch) -> list[Callable[[Numbers], tuple[float, ...]]]:
    """For each of B prompts a function that converts numbers x, y, x, y, ... of boxes or points
    from pixels of the model image to pixels of the original image."""
    return [partial(scale_pairs, from_shape=shape_of(image),
                    to_shape=sample.ori_shape)
            for image, sample in zip(rollout.model_images, rollout.data_samples, strict=True)]


def score_objects(parsed: ReasoningOutput | ParseFailure, boxes: Sequence[Numbers],
                  points: Sequence[Points], score: Score) -> float:
    """The sum of the scores of matched objects over the larger number of objects.

    Args:
        parsed: An answer about M objects; for an unusable one, the objects that could be read.
        boxes, points: Of N targets.
        score: What a predicted box with its points earns against a target's.

    Returns:
        The mean, in the range of ``score``. 1 if M and N are 0 and the answer is usable: failing to
        answer is not the same as answering "nothing".
    """
    larger = max(len(parsed.objects), len(boxes))
    if not larger:
        return float(isinstance(parsed, ReasoningOutput))
    found = [(item.box, item.points) for item in parsed.objects if item.box is not None]
    return sum(score(*found[i], boxes[j], points[j])
               for i, j in match_boxes([box for box, _ in found], boxes)) / larger
