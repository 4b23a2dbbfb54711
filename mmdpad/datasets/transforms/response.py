# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The response that supervised training teaches."""

from __future__ import annotations

from mmcv.transforms import BaseTransform

from mmdpad.prompts import format_objects_response, format_response
from mmdpad.registry import TRANSFORMS

from ..errors import DatasetError


@TRANSFORMS.register_module()
class ComposeResponse(BaseTransform):
    """Write the ideal response to a question.

    Required keys: ``response``, a whole text (its coordinates in pixels of the prompt image),
    which is taken as it is; or ``think`` and ``caption`` with ``prompt_boxes`` and
    ``prompt_points``, which are put into the form of :func:`mmdpad.prompts.format_response`, or of
    :func:`mmdpad.prompts.format_objects_response`. Added key: ``response``.

    Args:
        several_objects: The answer is a list, as in ``ReasoningSegmentor``.

    Raises:
        DatasetError: The item has neither, or, where the answer is one object, not one target.
    """

    def __init__(self, several_objects: bool = False) -> None:
        self.several_objects = several_objects

    def transform(self, results: dict) -> dict:
        if 'response' in results:
            return results
        missing = [key for key in ('think', 'caption') if key not in results]
        where = results.get('ann_path', results.get('img_path'))
        if missing:
            raise DatasetError(f'{where} lacks {" and ".join(f"`{key}`" for key in missing)} for '
                               'supervised training; add both `think` and `caption`, or a whole '
                               '`response`, or train without `ComposeResponse`')
        objects = list(zip(results['prompt_boxes'].tolist(), results['prompt_points'].tolist(),
                           strict=True))
        if self.several_objects:
            results['response'] = format_objects_response(results['think'], objects,
                                                          results['caption'])
        elif len(objects) == 1:
            results['response'] = format_response(results['think'], *objects[0],
                                                  results['caption'])
        else:
            raise DatasetError(f'{where} should have one target, but has {len(objects)}; set '
                               f'`several_objects=True`, also in the model, or leave it out')
        return results
