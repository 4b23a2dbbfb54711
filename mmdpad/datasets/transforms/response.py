# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The SFT target: the response that supervised training teaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcv.transforms import BaseTransform

from mmdpad.geometry.coordinates import check_coordinates, scale_boxes, scale_points, written_shape
from mmdpad.registry import TRANSFORMS
from mmdpad.structures import AnsweredObject
from mmdpad.tasks import Task, WrongTask, build_tasks, find_task

from ..errors import DatasetError
from .required import require


@TRANSFORMS.register_module()
class ComposeResponse(BaseTransform):
    """Compose the SFT target, the ideal response to a question.

    Required keys: ``response``, a complete text, which is used unchanged, coordinates included; or
    what :meth:`mmdpad.tasks.Task.compose` of the item's ``task`` writes: the task's ``texts``
    (``think``, ``caption``, ``answer``) and, if its answers name objects, ``model_boxes`` and
    ``model_shape`` (an answer in words may do without); of these objects, if the item has them,
    also ``model_points``, the labels (``model_labels``, which are among ``class_labels``, whose
    names are ``classes``) and ``descriptions``, a list. Added keys: ``response`` and
    ``response_coordinates``, the argument ``coordinates``.

    Args:
        several_objects: The answer is a list, as in ``ReasoningSegmentor``.
        tasks: The model's ``tasks``, if it has several; then instead of ``several_objects``.
        coordinates: Those that the policy writes, one of
            :data:`mmdpad.geometry.coordinates.COORDINATES`:
            'pixels' of the model image for Qwen2.5-VL, 'relative_1' for LFM2-VL, 'relative_1000'
            for other families.

    Raises:
        DatasetError: The item has neither; its task is unknown; or the answer is a single object,
            but the item does not have exactly one target.
        ValueError: See :func:`mmdpad.tasks.build_tasks`.
    """

    reads_truth = True

    def __init__(self, several_objects: bool = False, coordinates: str = 'pixels',
                 tasks: Mapping[str, Any] | None = None) -> None:
        check_coordinates(coordinates)
        self.tasks = build_tasks(tasks, several_objects=several_objects)
        self.coordinates = coordinates

    def transform(self, results: dict) -> dict:
        results['response_coordinates'] = self.coordinates
        if 'response' in results:
            return results
        where = results.get('ann_path', results.get('img_path'))
        try:
            task = find_task(results.get('task'), self.tasks, 'ComposeResponse')
        except WrongTask as error:
            raise DatasetError(f'{where}: {error}') from error
        missing = [key for key in task.texts if key not in results]
        if missing:
            raise DatasetError(f'{where} lacks {" and ".join(f"`{key}`" for key in missing)} for '
                               f'supervised training; add {_all(task.texts)}, or a complete '
                               f'`response`, or train without `ComposeResponse`')
        texts = {'think': ''} | {key: results[key] for key in task.texts}
        try:
            objects = self._objects(results, task) if task.has_objects else []
            results['response'] = task.compose(objects=objects, coordinates=self.coordinates,
                                               **texts)
        except ValueError as error:
            raise DatasetError(f'{where}: {error}') from error
        return results

    def _objects(self, results: dict, task: Task) -> list[AnsweredObject]:
        """The targets in the coordinates that the policy writes."""
        if 'model_boxes' not in results and not task.needs_targets:
            return []
        require(results, type(self).__name__, 'model_boxes',
                *(['model_points'] if task.decodes_masks else []))
        boxes, points = results['model_boxes'], results.get('model_points')
        if self.coordinates != 'pixels':
            shape = results['model_shape']
            shapes = shape, written_shape(self.coordinates, shape)
            boxes = scale_boxes(boxes, *shapes)
            points = None if points is None else scale_points(points, *shapes)
        names = dict(zip(results.get('class_labels', ()), results.get('classes', ()), strict=True))
        labels = results.get('model_labels')
        descriptions = results.get('descriptions')
        return [AnsweredObject(
            tuple(box.tolist()), None if points is None else tuple(map(tuple, points[i].tolist())),
            None if labels is None else names[int(labels[i])],
            None if descriptions is None else descriptions[i]) for i, box in enumerate(boxes)]


def _all(keys: tuple[str, ...]) -> str:
    """'`think`', or 'both `think` and `caption`'."""
    quoted = [f'`{key}`' for key in keys]
    return quoted[0] if len(quoted) == 1 else f'both {" and ".join(quoted)}'
