# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The response that supervised training teaches."""

from __future__ import annotations

from mmcv.transforms import BaseTransform

from mmdpad.prompts import format_response
from mmdpad.registry import TRANSFORMS

from ..errors import DatasetError


@TRANSFORMS.register_module()
class ComposeResponse(BaseTransform):
    """Write the ideal response to a question.

    Required keys: ``response``, a whole text (its coordinates in pixels of the prompt image),
    which is taken as it is; or ``think`` and ``caption`` with ``prompt_box`` and
    ``prompt_points``, which are put into the form of :func:`mmdpad.prompts.format_response`.
    Added key: ``response``.

    Raises:
        DatasetError: The item has neither.
    """

    def transform(self, results: dict) -> dict:
        if 'response' in results:
            return results
        missing = [key for key in ('think', 'caption') if key not in results]
        if missing:
            where = results.get('ann_path', results.get('img_path'))
            raise DatasetError(f'{where} lacks {" and ".join(f"`{key}`" for key in missing)} for '
                               'supervised training; add both `think` and `caption`, or a whole '
                               '`response`, or train without `ComposeResponse`')
        results['response'] = format_response(
            results['think'], results['prompt_box'].tolist(), results['prompt_points'].tolist(),
            results['caption'])
        return results
