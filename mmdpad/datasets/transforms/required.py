# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Check what a pipeline step needs from earlier steps and from the data set."""

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
    model_img='put `ModelImageResize` before it',
    model_shape='put `ModelImageResize` before it',
    question=f'put {_ASKING} before it, or use a `QuestionDataset` with one of these',
    gt_masks='put `LoadInstanceMasks` (`LoadReasonSegMask` for ReasonSegDataset) before it, or '
    'use `TargetsFromBoxes` for data without masks',
    model_boxes=_TARGETS,
    model_points=_TARGETS,
    instances='use a data set that marks objects, as CocoDataset and RefCocoDataset do '
    '(ReasonSegDataset needs `LoadReasonSegMask`, SegZeroDataset `TargetsFromSolution` instead)',
    ann_path='only ReasonSegDataset has it; use `LoadInstanceMasks` for others',
    solution='only SegZeroDataset has it; use `TargetsFromMask` or `TargetsFromBoxes` for '
    'others',
    solution_shape='only SegZeroDataset has it; use `TargetsFromMask` or `TargetsFromBoxes` '
    'for others')


def require(results: Mapping[str, Any], step: str, *keys: str) -> None:
    """Check that the results have all keys that a step needs.

    Args:
        results: The results of the pipeline so far.
        step: Name of the transform that needs the keys.
        keys: Entries of the results.

    Raises:
        DatasetError: A key is missing; the message names the transform that adds it.
    """
    for key in keys:
        if key not in results:
            raise missing(results, step, f'`{key}`', _ADDED_BY[key])


def missing(results: Mapping[str, Any], step: str, what: str, hint: str) -> DatasetError:
    """The error for something that an item does not have."""
    return DatasetError(f'`{step}` needs {what}, which {item_name(results)} does not have; '
                        f'{hint}', 'missing key')


def item_name(results: Mapping[str, Any]) -> str:
    """The name of an item in messages."""
    return f'the item of {results["img_path"]}' if 'img_path' in results else 'an item'


def require_masks(results: Mapping[str, Any], step: str) -> np.ndarray:
    """``gt_masks`` of the results.

    Raises:
        DatasetError: They are missing, or were not made by this package.
    """
    require(results, step, 'gt_masks')
    masks = results['gt_masks']
    if not isinstance(masks, np.ndarray):
        raise DatasetError(
            f'`gt_masks` of {item_name(results)} should be a bool array (K, H, W) for `{step}`, '
            f"but is {type(masks).__name__}; use `LoadInstanceMasks` instead of mmdet's "
            '`LoadAnnotations`', 'missing key')
    return masks
