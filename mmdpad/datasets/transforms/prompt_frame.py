# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""From the original frame to the prompt frame: the image and the targets."""

from __future__ import annotations

from typing import Any

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform

from mmdpad.prompts.coordinates import scale_boxes, scale_points
from mmdpad.registry import TRANSFORMS
from mmdpad.utils.provenance import base_datasets

from .targets import box_from_mask, points_from_mask


@TRANSFORMS.register_module()
class PromptResize(BaseTransform):
    """Make the prompt image: the image at a fixed size, its aspect not kept.

    Boxes of other objects go with it, scaled and not rounded.

    Pillow's antialiased bilinear filter, as in the published evaluation code. (The published
    training images were made by OpenCV's area filter; where images shrink the two are close.)

    Required keys: ``img``; optional: ``other_boxes``, K boxes XYXY in its pixels. Added keys:
    ``prompt_img`` (h, w, 3) uint8 RGB, ``prompt_shape`` (h, w) and, from ``other_boxes``,
    ``prompt_negatives`` (K, 4) float32 XYXY in pixels of the prompt image.

    Args:
        size: Width and height of the prompt image in pixels.
    """

    def __init__(self, size: tuple[int, int] = (840, 840)) -> None:
        if len(size) != 2 or not all(isinstance(v, int) and v > 0 for v in size):
            raise ValueError(f'`size` should be (width, height), positive integers in pixels, '
                             f'but got {size}')
        self.size = (size[0], size[1])

    def transform(self, results: dict) -> dict:
        results['prompt_img'] = mmcv.imresize(
            results['img'], self.size, interpolation='bilinear', backend='pillow')
        results['prompt_shape'] = results['prompt_img'].shape[:2]
        if 'other_boxes' in results:
            boxes = torch.tensor(results['other_boxes'], dtype=torch.float32).reshape(-1, 4)
            results['prompt_negatives'] = scale_boxes(boxes, results['img'].shape[:2],
                                                      results['prompt_shape'])
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size})'


def prompt_sizes(dataset: Any) -> set[tuple[int, int]]:
    """(width, height) of the prompt images of a data set, however wrapped."""
    return {step.size for part in base_datasets(dataset) for step in part.pipeline.transforms
            if isinstance(step, PromptResize)}


@TRANSFORMS.register_module()
class TargetsFromMask(BaseTransform):
    """Box and two points of each target, in the prompt frame.

    They are found in the original frame (:mod:`.targets`), scaled and rounded to whole pixels of
    the prompt image, halves up, as the published training data was. So an object too thin for
    the prompt frame keeps its targets.

    Required keys: ``gt_masks`` (K, H, W), ``ori_shape``, ``prompt_shape``. Added keys:
    ``prompt_boxes`` (K, 4) float32 XYXY, both ends inclusive, and ``prompt_points`` (K, 2, 2)
    float32, (x, y); K is 0 where nothing is meant.
    """

    def transform(self, results: dict) -> dict:
        masks, (height, width) = results['gt_masks'], results['prompt_shape']
        # Four points of each mask: both corners of its box, then the two inside.
        found = [np.concatenate([box_from_mask(mask).reshape(2, 2), points_from_mask(mask)])
                 for mask in masks]
        points = scale_points(torch.from_numpy(np.array(found, np.float32).reshape(-1, 4, 2)),
                              results['ori_shape'], results['prompt_shape'])
        last = torch.tensor([width - 1, height - 1])
        points = torch.minimum((points + 0.5).floor(), last)  # whole pixels, halves up
        results['prompt_boxes'] = points[:, :2].reshape(-1, 4)
        results['prompt_points'] = points[:, 2:]
        return results
