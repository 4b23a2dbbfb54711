# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What a step of a pipeline needs from those before it, and from the data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import DatasetError

_ASKING = '`QuestionFromExpression`, `QuestionFromLabel` or `QuestionFromPhrase`'
_TARGETS = ('put `TargetsFromMask`, `TargetsFromBoxes` or, for SegZeroDataset, '
            '`TargetsFromSolution` before it')
_ADDED_BY = dict(
    img='put `LoadReasoningImage` before it',
    ori_shape='put `LoadReasoningImage` before it',
    prompt_img='put `ModelImageResize` before it',
    model_shape='put `ModelImageResize` before it',
    question=f'put {_ASKING} before it, or take a `QuestionDataset` with one of these',
    gt_masks='put `LoadInstanceMasks` (`LoadReasonSegMask` for ReasonSegDataset) before it, or '
    'take `TargetsFromBoxes` for data without masks',
    model_boxes=_TARGETS,
    model_points=_TARGETS,
    instances='take a data set that marks objects, as CocoDataset and RefCocoDataset do '
    '(ReasonSegDataset has `LoadReasonSegMask` for its own, SegZeroDataset `TargetsFromSolution`)',
    ann_path='only ReasonSegDataset gives it; take `LoadInstanceMasks` for others',
    solution='only SegZeroDataset gives it; take `TargetsFromMask` or `TargetsFromBoxes` for '
    'others',
    solution_shape='only SegZeroDataset gives it; take `TargetsFromMask` or `TargetsFromBoxes` '
    'for others')


def require(results: Mapping[str, Any], step: str, *keys: str) -> None:
    """
    Args:
        results: What a pipeline has so far.
        step: Name of the transform that needs the keys.
        keys: Entries of the results.

    Raises:
        DatasetError: One is not there; the message names the transform that adds it.
    """
    for key in keys:
        if key not in results:
            raise missing(results, step, f'`{key}`', _ADDED_BY[key])


def missing(results: Mapping[str, Any], step: str, what: str, hint: str) -> DatasetError:
    """The error about something that an item does not have."""
    return DatasetError(f'`{step}` needs {what}, which {item_name(results)} does not have; '
                        f'{hint}', 'missing key')


def item_name(results: Mapping[str, Any]) -> str:
    """What messages call an item."""
    return f'the item of {results["img_path"]}' if 'img_path' in results else 'an item'


def require_masks(results: Mapping[str, Any], step: str) -> np.ndarray:
    """``gt_masks`` of the results.

    Raises:
        DatasetError: They are not there, or not those of this package.
    """
    require(results, step, 'gt_masks')
    masks = results['gt_masks']
    if not isinstance(masks, np.ndarray):
        raise DatasetError(
            f'`gt_masks` of {item_name(results)} should be a bool array (K, H, W) for `{step}`, '
            f"but is {type(masks).__name__}; put `LoadInstanceMasks` in the place of mmdet's "
            '`LoadAnnotations`', 'missing key')
    return masks
