# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Mask overlap under the protocols that papers on reasoning segmentation use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mmdpad.structures import ParseFailure
from mmdpad.structures.candidates import ABSTAINED

# ReasonSeg's 'ignore' regions either count as target (the prepared copies of Seg-Zero, which DPAD
# evaluates on) or are left out of both intersection and union (LISA).
IGNORE_REGIONS = ('target', 'exclude')
_PIXELS_AT_ONCE = 2**20  # so that counts are exact in float32


def check_ignore_regions(ignore_regions: str) -> None:
    """Raise a ValueError unless this is one of :data:`IGNORE_REGIONS`."""
    if ignore_regions not in IGNORE_REGIONS:
        raise ValueError(f'`ignore_regions` should be one of {IGNORE_REGIONS}, but got '
                         f'{ignore_regions!r}')


def apply_protocol(mask: np.ndarray, target: np.ndarray, ignore: np.ndarray,
                   ignore_regions: str) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and target as the protocol counts them.

    Args:
        mask, target, ignore: bool (H, W).
        ignore_regions: One of ``IGNORE_REGIONS``.

    Returns:
        Two bool masks (H, W), whose intersection and union give the IoU.

    Raises:
        ValueError: The shapes differ, or the protocol is unknown.
    """
    if not mask.shape == target.shape == ignore.shape:
        raise ValueError(f'Prediction, target and ignore region should have the same shape, but '
                         f'got {mask.shape}, {target.shape} and {ignore.shape}')
    check_ignore_regions(ignore_regions)
    if ignore_regions == 'target':
        return mask, target | ignore
    return mask & ~ignore, target & ~ignore


def mask_iou(intersection: int, union: int, ignore_regions: str) -> float:
    """Intersection / union of one image, in [0, 1].

    For an empty union, LISA's protocol ('exclude') gives 1, and the evaluation script of Seg-Zero
    and DPAD ('target') gives 0.
    """
    if union == 0:
        return float(ignore_regions == 'exclude')
    return intersection / union


def pairwise_iou(masks: Sequence[np.ndarray]) -> np.ndarray:
    """IoU of each pair of N masks, bool (H, W) each, as float64 (N, N) in [0, 1]; 1 of two empty
    masks, 0 of an empty one and another."""
    flat = np.stack(masks).reshape(len(masks), -1)
    shared = np.zeros((len(masks), len(masks)))
    for start in range(0, flat.shape[1], _PIXELS_AT_ONCE):
        part = flat[:, start:start + _PIXELS_AT_ONCE].astype(np.float32)
        shared += part @ part.T
    areas = shared.diagonal()
    union = areas[:, None] + areas - shared
    return np.where(union, shared / np.maximum(union, 1), 1.0)


def score_mask(sample: dict, ignore_regions: str
               ) -> tuple[np.ndarray, ParseFailure | None, dict[str, float]]:
    """Compare a sample's mask with its target, see :class:`ReasonSegMetric`.

    Several objects count as the union of their masks. If the question has no target, the IoU is 1
    for an empty prediction, also by abstaining, and 0 otherwise (gRefCOCO, arXiv 2306.00968). If it
    has one but the annotation marks none (``empty_target``), the protocol decides, see
    :func:`mask_iou`.

    Returns:
        The predicted mask, bool (H, W), empty after a failure; the failure or None; and ``iou`` in
        [0, 1], with ``intersection``, ``union`` and the prediction's ``area`` in those pixels of
        the original frame that the protocol counts.
    """
    target, ignored = target_and_ignored(sample)
    predicted = sample['pred_instances']['masks']
    parsed = sample.get('reasoning', {}).get('parsed')
    failure = parsed if isinstance(parsed, ParseFailure) else None
    if not len(predicted) and failure is None and getattr(parsed, 'objects', None):
        failure = ParseFailure('no_mask', 'the decoder gave no mask')
    mask = np.zeros_like(target) if failure else union_of(predicted)
    kept, wanted = apply_protocol(mask, target, ignored, ignore_regions)
    area = int(np.count_nonzero(kept))
    intersection = int(np.count_nonzero(kept & wanted))
    union = area + int(np.count_nonzero(wanted)) - intersection
    if failure and failure.reason != ABSTAINED:
        iou = 0.0
    elif not len(sample['gt_instances']['masks']) and not sample.get('empty_target'):
        iou = float(not area)
    else:
        iou = mask_iou(intersection, union, ignore_regions)
    return mask, failure, dict(iou=iou, intersection=intersection, union=union, area=area)


def target_and_ignored(sample: dict) -> tuple[np.ndarray, np.ndarray]:
    """The union of the targets and the union of the ignore regions, bool (H, W) each."""
    target = union_of(sample['gt_instances']['masks'])
    ignored = sample.get('ignored_instances', {}).get('masks', ())
    return target, union_of(ignored) if len(ignored) else np.zeros_like(target)


def union_of(masks: Any) -> np.ndarray:
    """(n, H, W) masks of any kind -> bool (H, W)."""
    masks = dense_masks(masks)
    return masks[0] if len(masks) == 1 else masks.any(axis=0)


def dense_masks(masks: Any) -> np.ndarray:
    """Masks of any kind (tensor, array, mmdet's mask structures) -> bool (n, H, W)."""
    if hasattr(masks, 'to_ndarray'):
        masks = masks.to_ndarray()
    return torch.as_tensor(masks).cpu().numpy().astype(bool, copy=False)
