# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Data sets without pixels: only items and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose

from mmdpad.registry import TRANSFORMS, is_kind, type_name

from ..images import MAX_PIXELS, check_max_pixels, probe_image, probe_image_bytes
from ..wrappers import change_parts
from .loading import LoadReasoningImage
from .model_image import ModelImageResize


@TRANSFORMS.register_module()
class ProbeReasoningImage(BaseTransform):
    """Read the shape of an image from its header, as a replacement of :class:`LoadReasoningImage`.

    Required keys: ``img_path``; the content of a file in ``img_bytes`` is used instead of the file,
    and removed. Added keys: ``ori_shape`` and ``img_shape``, both (H, W), after the EXIF rotation.

    Args:
        max_pixels: As in :class:`LoadReasoningImage`.
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
    """The config of a data set that gives only its items and masks.

    Each pipeline, also in wrappers, keeps only the steps before ``ModelImageResize``, with
    :class:`ProbeReasoningImage` instead of ``LoadReasoningImage``.

    Raises:
        ValueError: A pipeline does not load an image first, or has no step between the two.
    """
    return change_parts(dataset, lambda config: dict(
        config, pipeline=_steps_of_masks(config['pipeline'])) if config.get('pipeline') else config)


def _steps_of_masks(pipeline: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    last = next((number for number, step in enumerate(pipeline)
                 if is_kind(step, ModelImageResize, TRANSFORMS)), 0)
    if last < 2 or not is_kind(pipeline[0], LoadReasoningImage, TRANSFORMS):
        raise ValueError('A pipeline should start with LoadReasoningImage, then load masks, then '
                         'ModelImageResize, so that masks can be read without pixels, but has '
                         f'{[type_name(step) for step in pipeline]}; use a data set with masks')
    return [dict(pipeline[0], type=ProbeReasoningImage), *pipeline[1:last]]


def pixel_limit(pipeline: Compose) -> int:
    """``max_pixels`` of the step that loads the image; the default if there is none."""
    return next((step.max_pixels for step in pipeline.transforms
                 if isinstance(step, (LoadReasoningImage, ProbeReasoningImage))), MAX_PIXELS)
