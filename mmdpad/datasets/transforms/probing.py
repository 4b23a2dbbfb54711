# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Configs of data sets: those in wrappers, and those whose pixels are not needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose

from mmdpad.registry import TRANSFORMS, is_kind, type_name

from .images import MAX_PIXELS, check_max_pixels, probe_image, probe_image_bytes
from .loading import LoadReasoningImage
from .prompt_frame import PromptResize


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
    :class:`ProbeReasoningImage`, and ``PromptResize``.

    Raises:
        ValueError: A pipeline does not load an image first, or has nothing between.
    """
    return change_parts(dataset, lambda config: dict(
        config, pipeline=_steps_of_masks(config['pipeline'])) if config.get('pipeline') else config)


def change_parts(dataset: Any, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Any:
    """The config of a data set, changed; in wrappers (``dataset``), concatenations (``datasets``)
    and lists what is inside, too. The config itself stays as it is, and so does what is none."""
    if isinstance(dataset, list | tuple):
        return [change_parts(part, change) for part in dataset]
    if not isinstance(dataset, Mapping):
        return dataset
    dataset = dict(change(dataset))
    for name in ('dataset', 'datasets'):
        if name in dataset:
            dataset[name] = change_parts(dataset[name], change)
    return dataset


def open_wrappers(dataset: Any) -> Iterator[dict]:
    """The data sets within a config of wrappers, as they stand in it; ``dataset`` may be a list."""
    if isinstance(dataset, (list, tuple)):
        for part in dataset:
            yield from open_wrappers(part)
    elif inner := dataset.get('dataset', dataset.get('datasets')):
        yield from open_wrappers(inner)
    else:
        yield dataset


def _steps_of_masks(pipeline: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    last = next((number for number, step in enumerate(pipeline)
                 if is_kind(step, PromptResize, TRANSFORMS)), 0)
    if last < 2 or not is_kind(pipeline[0], LoadReasoningImage, TRANSFORMS):
        raise ValueError('A pipeline should start with LoadReasoningImage, then load masks, then '
                         'PromptResize, so that masks can be had without pixels, but has '
                         f'{[type_name(step) for step in pipeline]}; take a data set with masks')
    return [dict(pipeline[0], type=ProbeReasoningImage), *pipeline[1:last]]


def pixel_limit(pipeline: Compose) -> int:
    """``max_pixels`` of the step that loads the image; the default where there is none."""
    return next((step.max_pixels for step in pipeline.transforms
                 if isinstance(step, (LoadReasoningImage, ProbeReasoningImage))), MAX_PIXELS)
