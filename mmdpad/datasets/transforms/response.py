# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The SFT target: the response that supervised training teaches."""

from __future__ import annotations

from mmcv.transforms import BaseTransform

from mmdpad.geometry.coordinates import check_coordinates, scale_boxes, scale_points, written_shape
from mmdpad.prompts import format_objects_response, format_response
from mmdpad.registry import TRANSFORMS

from ..errors import DatasetError
from .required import require


@TRANSFORMS.register_module()
class ComposeResponse(BaseTransform):
    """Compose the SFT target, the ideal response to a question.

    Required keys: ``response``, a complete text, which is used unchanged, coordinates included; or
    ``think`` and ``caption`` with ``model_boxes``, ``model_points`` and ``model_shape``, which are
    formatted by :func:`mmdpad.prompts.format_response` or
    :func:`mmdpad.prompts.format_objects_response`. Added keys: ``response`` and
    ``response_coordinates``, the argument ``coordinates``.

    Args:
        several_objects: The answer is a list, as in ``ReasoningSegmentor``.
        coordinates: Those that the policy writes, one of
            :data:`mmdpad.geometry.coordinates.COORDINATES`:
            'pixels' of the model image for Qwen2.5-VL, 'relative_1' for LFM2-VL, 'relative_1000'
            for other families.

    Raises:
        DatasetError: The item has neither; or the answer is a single object, but the item does not
            have exactly one target.
    """

    reads_truth = True

    def __init__(self, several_objects: bool = False, coordinates: str = 'pixels') -> None:
        check_coordinates(coordinates)
        self.several_objects = several_objects
        self.coordinates = coordinates

    def transform(self, results: dict) -> dict:
        results['response_coordinates'] = self.coordinates
        if 'response' in results:
            return results
        missing = [key for key in ('think', 'caption') if key not in results]
        where = results.get('ann_path', results.get('img_path'))
        if missing:
            raise DatasetError(f'{where} lacks {" and ".join(f"`{key}`" for key in missing)} for '
                               'supervised training; add both `think` and `caption`, or a '
                               'complete `response`, or train without `ComposeResponse`')
        require(results, type(self).__name__, 'model_boxes', 'model_points')
        boxes, points = results['model_boxes'], results['model_points']
        if self.coordinates != 'pixels':
            shape = results['model_shape']
            shapes = shape, written_shape(self.coordinates, shape)
            boxes, points = scale_boxes(boxes, *shapes), scale_points(points, *shapes)
        objects = list(zip(boxes.tolist(), points.tolist(), strict=True))
        if self.several_objects:
            results['response'] = format_objects_response(results['think'], objects,
                                                          results['caption'], self.coordinates)
        elif len(objects) == 1:
            results['response'] = format_response(results['think'], *objects[0],
                                                  results['caption'], self.coordinates)
        else:
            raise DatasetError(f'{where} should have one target, but has {len(objects)}; set '
                               f'`several_objects=True`, also in the model, or leave it out')
        return results
