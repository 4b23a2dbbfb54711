# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Adapt the inputs of mmdet's inference to mmdpad's pipelines."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform

from mmdpad.registry import TRANSFORMS


@TRANSFORMS.register_module()
class QuestionFromTextPrompt(BaseTransform):
    """Use the text prompt of mmdet's ``inference_detector`` or ``DetInferencer`` as the question.
    Belongs between mmdet's step that loads the image and :class:`LoadReasoningImage`.

    Required keys: ``text``, and ``img_path`` or ``img`` (H, W, 3) uint8 BGR, as in mmdet.
    Added keys: ``question``, ``texts``, ``text_index``. ``img`` becomes RGB; if there is a file,
    it is removed instead, and :class:`LoadReasoningImage` reads the file.

    Raises:
        ValueError: There is no text.
    """

    def transform(self, results: dict) -> dict:
        text = results.get('text')
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f'The text prompt should be a question, but got {text!r}; pass it as '
                             f'`text_prompt` to `inference_detector`, as `texts` to '
                             f'`DetInferencer`, or use `mmdpad.apis.ReasonSegInferencer`')
        results.update(question=text, texts=[text], text_index=0)
        if results.get('img_path') is None:
            results.pop('img_path', None)
            results['img'] = np.ascontiguousarray(results['img'][..., ::-1])
        else:
            del results['img']
        return results
