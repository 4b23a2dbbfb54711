# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What mmdet's inference hands to a pipeline, as our pipelines take it."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform

from mmdpad.registry import TRANSFORMS


@TRANSFORMS.register_module()
class QuestionFromTextPrompt(BaseTransform):
    """Take the text prompt of mmdet's ``inference_detector`` or ``DetInferencer`` for the question;
    in a pipeline between mmdet's step that loads the image and :class:`LoadReasoningImage`.

    Required keys: ``text``, and ``img_path`` or ``img`` (H, W, 3) uint8 BGR, as mmdet has it.
    Added keys: ``question``, ``texts``, ``text_index``. ``img`` becomes RGB, or is removed where
    there is a file, which :class:`LoadReasoningImage` then reads.

    Raises:
        ValueError: There is no text.
    """

    def transform(self, results: dict) -> dict:
        text = results.get('text')
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f'The text prompt should be a question, but got {text!r}; give it as '
                             f'`text_prompt` of `inference_detector`, as `texts` of '
                             f'`DetInferencer`, or ask `mmdpad.apis.ReasonSegInferencer`')
        results.update(question=text, texts=[text], text_index=0)
        if results.get('img_path') is None:
            results.pop('img_path', None)
            results['img'] = np.ascontiguousarray(results['img'][..., ::-1])
        else:
            del results['img']
        return results
