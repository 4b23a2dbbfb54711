# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Data sets without their pixels: what stands in items and masks alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose

from mmdpad.registry import TRANSFORMS, is_kind, type_name

from ..wrappers import change_parts
from .images import MAX_PIXELS, check_max_pixels, probe_image, probe_image_bytes
from .loading import LoadReasoningImage
from .model_image import ModelImageResize


@TRANSFORMS.register_module()
class ProbeReasoningImage(BaseTransform):
    """Read the shape of an image from its header, in place of :class:`LoadReasoningImage`.

    Required keys: ``img_path``; a file's content in ``img_bytes`` takes the file's place (and is
    removed). Added keys: ``ori_shape`` and ``img_shape``, both (H, W), after the EXIF rotation.

    Args:
        max_pixels: See there.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        self.max_pixels = check_max_pixels(max_pixels)

    def transform(self, results: dict) -> dict:
        if 'img_bytes' in results:
            shape = probe_image_bytes(results.pop('img_bytes'), results['img_path'],
                                      self.max_pixels)
        else:
            shape = probe_image(results['img_path'], self.max_pixels)
        results['ori_shape'] = results['img_shape'] = shape
        return results


def without_pixels(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a data set that gives only what stands in its items and its masks.

    Of a pipeline, a wrapper's too, remain the steps between ``LoadReasoningImage``, which becomes
    :class:`ProbeReasoningImage`, and ``ModelImageResize``.

    Raises:
        ValueError: A pipeline does not load an image first, or has nothing between.
    """
    return change_parts(dataset, lambda config: dict(
        config, pipeline=_steps_of_masks(config['pipeline'])) if config.get('pipeline') else config)


def _steps_of_masks(pipeline: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    last = next((number for number, step in enumerate(pipeline)
                 if is_kind(step, ModelImageResize, TRANSFORMS)), 0)
    if last < 2 or not is_kind(pipeline[0], LoadReasoningImage, TRANSFORMS):
        raise ValueError('A pipeline should start with LoadReasoningImage, then load masks, then '
                         'ModelImageResize, so that masks can be had without pixels, but has '
                         f'{[type_name(step) for step in pipeline]}; take a data set with masks')
    return [dict(pipeline[0], type=ProbeReasoningImage), *pipeline[1:last]]


def pixel_limit(pipeline: Compose) -> int:
    """``max_pixels`` of the step that loads the image; the default where there is none."""
    return next((step.max_pixels for step in pipeline.transforms
                 if isinstance(step, (LoadReasoningImage, ProbeReasoningImage))), MAX_PIXELS)
