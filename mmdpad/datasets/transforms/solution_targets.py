# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Targets that the data provides as text instead of masks."""

from __future__ import annotations

import torch
from mmcv.transforms import BaseTransform

from mmdpad.geometry.coordinates import scale_boxes, scale_points
from mmdpad.prompts import parse_objects_solution
from mmdpad.registry import TRANSFORMS

from .required import require


@TRANSFORMS.register_module()
class TargetsFromSolution(BaseTransform):
    """Box and points of each target, in the model frame, from a solution.

    They are scaled if the model image differs in size from the solution's frame, and not rounded.

    Required keys: ``solution`` (:func:`mmdpad.prompts.parse_objects_solution`),
    ``solution_shape`` (h, w) of its frame, ``model_shape``. Added keys: ``model_boxes`` (K, 4)
    float32 XYXY and ``model_points`` (K, P, 2) float32, (x, y). P is 2 for a solution about one
    object, and 1 for a list, for which K may be 0.
    """

    reads_truth = True

    def transform(self, results: dict) -> dict:
        require(results, type(self).__name__, 'solution', 'solution_shape', 'model_shape')
        objects = parse_objects_solution(results['solution'])
        shapes = results['solution_shape'], results['model_shape']
        boxes = torch.tensor([box for box, _ in objects], dtype=torch.float32)
        points = torch.tensor([points for _, points in objects], dtype=torch.float32)
        results['model_boxes'] = scale_boxes(boxes.reshape(-1, 4), *shapes)
        results['model_points'] = scale_points(
            points.reshape(len(objects), points.shape[1] if objects else 1, 2), *shapes)
        return results
