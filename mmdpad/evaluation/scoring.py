# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""One answer against its target: mask, points and boxes."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmdpad.geometry.boxes import box_iou, match_boxes
from mmdpad.geometry.mask_iou import (
    apply_protocol,
    dense_masks,
    score_mask,
    target_and_ignored,
    union_of,
)
from mmdpad.geometry.masks import encode_mask
from mmdpad.geometry.targets import box_from_mask
from mmdpad.rewards import repetition
from mmdpad.structures import ConversationRecord, ParseFailure

FAILED_SAMPLES = 'IoU 0, union = target area'
"""How a response without a usable answer is scored, as result files say it."""

ORIGIN = dict(index='sample_idx', id='img_id', image='img_path', question='question')
"""Column of a row that identifies its sample -> key of the sample."""


def identify(sample: dict) -> dict[str, Any]:
    """The columns :data:`ORIGIN` of a sample's row; None for what the sample lacks."""
    return {name: sample.get(key) for name, key in ORIGIN.items()}


def describe_response(sample: dict) -> dict[str, Any]:
    """The columns of a sample's row about its response, whatever it answers: ``failure`` and
    ``failure_detail`` (None if it is usable), ``think``, ``caption``, ``reasoning_tokens``,
    ``caption_tokens``, ``repetition`` (of the reasoning), ``truncated`` and ``response``; of a
    conversation, also ``turns``, ``zoomed``, ``bad_calls`` and ``conversation``
    (:meth:`mmdpad.structures.ConversationRecord.describe`). ``think`` is that of its last turn."""
    reasoning = sample.get('reasoning', {})
    parsed = reasoning.get('parsed')
    failure = parsed if isinstance(parsed, ParseFailure) else None
    think = getattr(parsed, 'think', None)
    return dict(
        failure=failure and failure.reason, failure_detail=failure and failure.detail,
        think=think, caption=getattr(parsed, 'caption', None),
        reasoning_tokens=reasoning.get('reasoning_tokens'),
        caption_tokens=reasoning.get('caption_tokens'),
        repetition=repetition(think) if think else None,
        truncated=reasoning.get('truncated', False), response=reasoning.get('response'),
        **_describe_conversation(reasoning.get('conversation')))


def _describe_conversation(record: ConversationRecord | None) -> dict[str, Any]:
    if record is None:
        return {}
    return dict(turns=len(record.texts), zoomed=bool(record.crops),
                bad_calls=len(record.bad_calls), conversation=record.describe())


def score_sample(sample: dict, ignore_regions: str, save_masks: bool = False) -> dict[str, Any]:
    """The row of a result file about one sample: plain data, except for NumPy number types.

    Args:
        sample: See :meth:`ReasonSegMetric.process`.
        ignore_regions: One of ``IGNORE_REGIONS``.
        save_masks: Add ``mask``, the predicted one, and ``target``, the one that is scored, as COCO
            RLE.

    Returns:
        Of the sample: ``index``, ``id``, ``image``, ``question``, ``is_sentence``,
        ``num_targets``, and ``empty_target`` (True) where that is 0 and should be 1. Its scores:
        those of :func:`score_mask`; ``pointing`` (:func:`score_points`; for a question without a
        target, 1 if no point is given, else 0) and ``boxes_right`` (:func:`boxes_are_right`), 0 and
        False for a failed sample, None if the model gives no points or boxes. The answer: those of
        :func:`describe_response`, where a mask that was not decoded is a failure, too; ``boxes``,
        ``points``, ``scores``; with any, ``negative_points``; from a decoder that takes captions
        also ``fallback``, of each object; from an agent ``vlm_calls``, ``sam_calls`` and
        ``generated_tokens``.
    """
    sample = as_counted(sample, ignore_regions)
    predicted = sample['pred_instances']
    mask, failure, overlap = score_mask(sample, ignore_regions)
    boxes, points = predicted.get('bboxes'), predicted.get('points')
    row = dict(
        identify(sample), is_sentence=sample.get('is_sentence'),
        num_targets=len(sample['gt_instances']['masks']),
        **(dict(empty_target=True) if sample.get('empty_target') else {}), **overlap,
        pointing=None if points is None else _pointing(points, sample, failure, ignore_regions),
        boxes_right=None if boxes is None else failure is None and boxes_are_right(
            boxes.tolist(), _target_boxes(sample)),
        boxes=_plain(boxes), points=_plain(points), scores=_plain(predicted.get('scores')),
        **(dict(negative_points=predicted['negative_points'])
           if 'negative_points' in predicted else {}),
        **(dict(fallback=_plain(predicted['fallback'])) if 'fallback' in predicted else {}),
        **describe_response(sample) | dict(
            failure=failure and failure.reason, failure_detail=failure and failure.detail),
        **sample.get('reasoning', {}).get('calls', {}))
    if save_masks:
        _, target = apply_protocol(mask, *target_and_ignored(sample), ignore_regions)
        row.update(mask=encode_mask(mask), target=encode_mask(target))
    return row


def score_points(points: np.ndarray, target: np.ndarray, ignored: np.ndarray,
                 ignore_regions: str) -> float:
    """The share of points that lie on the target, in [0, 1]; 0 without a point that counts.

    A point belongs to the pixel that it lies in; a point outside the image misses. Ignored pixels
    count as target or are left out, and so are points on them, see :func:`apply_protocol`.

    Args:
        points: (N, 2) float, (x, y) in pixels of the masks' frame.
        target, ignored: bool (H, W).
        ignore_regions: One of ``IGNORE_REGIONS``.
    """
    (height, width), (x, y) = target.shape, points.T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    on_target, on_ignored = np.zeros((2, len(points)), bool)
    pixels = y[inside].astype(int), x[inside].astype(int)
    on_target[inside], on_ignored[inside] = target[pixels], ignored[pixels]
    counted, wanted = apply_protocol(np.ones(len(points), bool), on_target, on_ignored,
                                     ignore_regions)
    return float((counted & wanted).sum() / counted.sum()) if counted.any() else 0.0


def boxes_are_right(boxes: list[list[float]], targets: list[list[float]],
                    threshold: float = 0.5) -> bool:
    """Whether there are as many boxes as targets and each matches its own with IoU > threshold.

    Pairs and IoU are those of the reward (:func:`mmdpad.geometry.boxes.match_boxes`): XYXY, sides
    with inclusive pixels. No box for no target is right.
    """
    return len(boxes) == len(targets) and all(
        box_iou(boxes[i], targets[j]) > threshold for i, j in match_boxes(boxes, targets))


def _pointing(points: Any, sample: dict, failure: ParseFailure | None,
              ignore_regions: str) -> float:
    """``pointing`` of :func:`score_sample`; ``points`` is a tensor (n, P, 2)."""
    found = np.array(points.tolist(), np.float64).reshape(-1, 2)
    if failure:
        return 0.0
    if not len(sample['gt_instances']['masks']):
        return float(not len(found))
    return score_points(found, *target_and_ignored(sample), ignore_regions)


def _target_boxes(sample: dict) -> list[list[float]]:
    """Boxes of the targets: those of the sample, else the tight boxes of its masks."""
    truth = sample['gt_instances']
    if 'bboxes' in truth:
        return truth['bboxes'].tolist()
    return [box_from_mask(mask).tolist() for mask in dense_masks(truth['masks'])]


def as_counted(sample: dict, ignore_regions: str) -> dict:
    """The sample with its ignored regions as its target, if it has no other target and the protocol
    counts them as target; this matches what a prepared copy holds."""
    ignored = sample.get('ignored_instances', {}).get('masks', ())
    if not sample.get('empty_target') or ignore_regions != 'target' or not (
            len(ignored) and union_of(ignored).any()):
        return sample
    return dict(sample, gt_instances=dict(masks=ignored), empty_target=False)


def _plain(values: Any) -> list | None:
    """A row of plain numbers for each predicted object; None if the model gives none."""
    return None if values is None else values.tolist()
