# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Convert the image and the targets from the original frame to the model frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform

from mmdpad.geometry.boxes import overlaps
from mmdpad.geometry.coordinates import scale_boxes, scale_points
from mmdpad.geometry.targets import box_from_mask, covered_pixels, points_from_mask
from mmdpad.registry import TRANSFORMS

from ..errors import DatasetError
from ..wrappers import base_datasets
from .required import missing, require, require_masks


@TRANSFORMS.register_module()
class ModelImageResize(BaseTransform):
    """Create the model image: the image resized to a fixed size, without keeping its aspect ratio.

    Boxes of other objects are scaled along, not rounded.

    This uses Pillow's antialiased bilinear filter, like the published evaluation code. (The
    published training images were made with OpenCV's area filter; for downscaling, the two are
    close.)

    Required keys: ``img``; optional: ``other_boxes``, K boxes XYXY in its pixels. Added keys:
    ``model_img`` (h, w, 3) uint8 RGB, ``model_shape`` (h, w) and, from ``other_boxes``,
    ``model_negatives`` (K, 4) float32 XYXY in pixels of the model image.

    Args:
        size: Width and height of the model image in pixels.
    """

    def __init__(self, size: tuple[int, int] = (840, 840)) -> None:
        if len(size) != 2 or not all(isinstance(v, int) and v > 0 for v in size):
            raise ValueError(f'`size` should be (width, height), positive integers in pixels, '
                             f'but got {size}')
        self.size = (size[0], size[1])

    def transform(self, results: dict) -> dict:
        require(results, type(self).__name__, 'img')
        results['model_img'] = mmcv.imresize(
            results['img'], self.size, interpolation='bilinear', backend='pillow')
        results['model_shape'] = results['model_img'].shape[:2]
        if 'other_boxes' in results:
            boxes = torch.tensor(results['other_boxes'], dtype=torch.float32).reshape(-1, 4)
            results['model_negatives'] = scale_boxes(boxes, results['img'].shape[:2],
                                                     results['model_shape'])
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size})'


def model_image_sizes(dataset: Any) -> set[tuple[int, int]]:
    """(width, height) of the model images of a data set, however wrapped."""
    return {step.size for part in base_datasets(dataset) for step in part.pipeline.transforms
            if isinstance(step, ModelImageResize)}


@TRANSFORMS.register_module()
class TargetsFromMask(BaseTransform):
    """Box and two points of each target, in the model frame.

    They are computed in the original frame (:mod:`mmdpad.geometry.targets`), then scaled and
    rounded to whole pixels of the model image, halves up, like the published training data. So
    even an object too thin for the model frame keeps its targets.

    Args:
        whole_pixels: Whether they are rounded. Objects of a few pixels of the model image need
            exact ones, with rewards in the original frame, such as ``BoxIoUReward(frame=
            'original')``.

    Required keys: ``gt_masks`` (K, H, W), ``ori_shape``, ``model_shape``. Added keys:
    ``model_boxes`` (K, 4) float32 XYXY, both ends inclusive, and ``model_points`` (K, 2, 2)
    float32, (x, y); K is 0 if there is no target; from ``gt_labels`` also ``model_labels`` (K,)
    long. If the results have ``classes``, x2 and y2 are outer edges, and ``outer_edges`` and
    ``model_ignored`` are added as by :class:`TargetsFromBoxes`.
    """

    reads_truth = True

    def __init__(self, whole_pixels: bool = True) -> None:
        self.whole_pixels = whole_pixels

    def transform(self, results: dict) -> dict:
        step = type(self).__name__
        require(results, step, 'ori_shape', 'model_shape')
        masks = require_masks(results, step)
        # Four points per mask: both corners of its box, then the two inside it.
        found = [np.concatenate([box_from_mask(mask).reshape(2, 2), points_from_mask(mask)])
                 for mask in masks]
        points = np.array(found, np.float32).reshape(-1, 4, 2)
        if 'classes' in results:
            require(results, step, 'instances')
            points[:, 1] += 1  # to outer edges
            _add_ignored(results)
        _add_targets(results, points, 'classes' in results, self.whole_pixels)
        if 'gt_labels' in results:
            results['model_labels'] = torch.from_numpy(results['gt_labels'])
        return results


@TRANSFORMS.register_module()
class TargetsFromBoxes(BaseTransform):
    """Box and center of each target, in the model frame, for data with boxes but no masks.

    Scaled and rounded as in :class:`TargetsFromMask`. These targets support box and point rewards;
    mask rewards (``MaskRewardHook``) and mask metrics need :class:`LoadInstanceMasks`. The center
    of a box may not lie on an object that is hollow or concave: leave out ``PointL1Reward`` if that
    matters.

    For a question about classes (``QuestionFromClasses``), x2 and y2 stay the outer edges that they
    are in COCO and mmdet, since predicted boxes are compared with those of the annotations.

    Required keys: ``instances``, a list (as in mmdet's data sets) of dicts with ``bbox``
    (:func:`covered_pixels`) and ``ignore_flag`` (1 if it is not a target); ``ori_shape``,
    ``model_shape``. Added keys: ``model_boxes`` (K, 4) float32 XYXY, both ends inclusive, and
    ``model_points`` (K, 1, 2) float32, (x, y); K is 0 if there is no target. If the results have
    ``classes``, also ``model_labels`` (K,) long and, of the n ignored instances,
    ``model_ignored``: a dict of ``bboxes`` (n, 4) float32, ``labels`` (n,) long and ``crowds`` (n,)
    bool; and ``outer_edges``, True.

    Raises:
        DatasetError: A target has no box, or its box is inverted or lies outside the image.
    """

    reads_truth = True

    def transform(self, results: dict) -> dict:
        step = type(self).__name__
        require(results, step, 'ori_shape', 'model_shape', 'instances')
        height, width = results['ori_shape']
        targets = [item for item in results['instances'] if not item['ignore_flag']]
        for target in targets:
            if 'bbox' not in target:
                raise missing(results, step, '`bbox` of each instance',
                              'use `LoadInstanceMasks` and `TargetsFromMask`')
            check_box(target['bbox'], height, width, results['img_path'])
        if 'classes' in results:
            _add_targets(results, _with_centers(_clip(targets, results)), outer=True)
            results['model_labels'] = _labels_of(targets)
            _add_ignored(results)
            return results
        boxes = covered_pixels([item['bbox'] for item in targets], height, width)
        _add_targets(results, _with_centers(boxes))
        return results


def check_box(box: Sequence[float], height: float, width: float, where: str) -> None:
    """Check that a box (x1, y1, x2, y2) has an area in its image.

    Raises:
        DatasetError: It has none; ``where`` names the image.
    """
    if not overlaps(box, (height, width)):
        raise DatasetError(
            f'A box of {where} should be (x1, y1, x2, y2) with x1 < x2 and y1 < y2 in the image of '
            f'{width} x {height} pixels (width x height), but is {list(box)}; correct or remove it',
            'wrong box')


def _add_ignored(results: dict) -> None:
    """Add what a question about classes ignores."""
    ignored = [item for item in results['instances'] if item['ignore_flag']]
    boxes = torch.from_numpy(_clip(ignored, results))
    results['model_ignored'] = dict(
        bboxes=scale_boxes(boxes, results['ori_shape'], results['model_shape']),
        labels=_labels_of(ignored),
        crowds=torch.tensor([bool(item.get('crowd')) for item in ignored], dtype=torch.bool))


def _clip(instances: list[dict], results: dict) -> np.ndarray:
    """The boxes of instances as (K, 4) float32, cut off at the border of the image."""
    height, width = results['ori_shape']
    boxes = np.array([item['bbox'] for item in instances], np.float32).reshape(-1, 4)
    return boxes.clip(0, np.array([width, height, width, height], np.float32))


def _labels_of(instances: list[dict]) -> torch.Tensor:
    return torch.tensor([item['bbox_label'] for item in instances], dtype=torch.long)


def _with_centers(boxes: np.ndarray) -> np.ndarray:
    """(K, 4) boxes as (K, 3, 2): both corners and the center."""
    corners = boxes.reshape(-1, 2, 2)
    return np.concatenate([corners, corners.mean(axis=1, keepdims=True)], axis=1)


def _add_targets(results: dict, points: np.ndarray, outer: bool = False,
                 whole_pixels: bool = True) -> None:
    """Add targets in the model frame, from float32 (K, 2 + P, 2) in the original frame: both
    corners of a box, then P points; ``outer`` says that the second corner is an outer edge, and
    ``whole_pixels`` that they are rounded."""
    height, width = results['model_shape']
    scaled = scale_points(torch.from_numpy(points), results['ori_shape'], results['model_shape'])
    if whole_pixels:
        last = torch.tensor([width - 1., height - 1.]).repeat(*scaled.shape[:2], 1)
        last[:, 1] += int(outer)
        scaled = torch.minimum((scaled + 0.5).floor(), last)  # halves up
        if outer:  # an object too thin for the model frame keeps a pixel
            scaled[:, 1] = torch.maximum(scaled[:, 1], scaled[:, 0] + 1)
    if outer:
        results['outer_edges'] = True
    results['model_boxes'] = scaled[:, :2].reshape(-1, 4)
    results['model_points'] = scaled[:, 2:]
