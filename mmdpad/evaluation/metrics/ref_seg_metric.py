# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""mmdet's referring segmentation metric, for models whose answers may fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.evaluation import RefSegMetric as RefSegMetricOfMMDet

from mmdpad.geometry.masks import decode_mask
from mmdpad.registry import METRICS

from .ignore_regions import check_truth


@METRICS.register_module()
class RefSegMetric(RefSegMetricOfMMDet):
    """mIoU and cIoU, in percent, of the union of an answer's masks.

    In the scope of mmdpad this replaces mmdet's ``RefSegMetric`` (still available as
    'mmdet.RefSegMetric') and gives the same numbers if every answer has exactly one mask. mmdet's
    metric cannot handle an answer without a mask: with versions of torch that refuse to reshape an
    empty tensor it raises in the middle of a test, and its formula leaves the answer out of the
    mean, which rewards not answering. It also compares each of several masks with the complete
    target. Here each sample counts once, and a sample without masks has IoU 0.

    Regions that ReasonSeg ignores are background here; :class:`ReasonSegMetric` handles them.

    Args:
        metric: 'cIoU', 'mIoU' or both.
        **kwargs: Of mmengine's ``BaseMetric``.
    """

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Score samples in the form of ``DetDataSample.to_dict()``: ``gt_masks`` of
        :func:`mmdpad.datasets.transforms.mmdet_ground_truth` and ``pred_instances`` with masks
        bool (n, H, W), or n RLEs as mmdet's ``DumpDetResults`` keeps them."""
        for sample in data_samples:
            check_truth(sample, 'gt_masks', packed=True)
        super().process(data_batch, [
            dict(gt_masks=sample['gt_masks'],
                 pred_instances=dict(masks=_unpack(sample).any(dim=0, keepdim=True)))
            for sample in data_samples])


def _unpack(sample: dict) -> torch.Tensor:
    """The predicted masks, bool (n, H, W)."""
    masks = sample['pred_instances']['masks']
    if isinstance(masks, list):
        truth = sample['gt_masks']
        masks = np.array([decode_mask(mask) for mask in masks], bool).reshape(
            -1, truth.height, truth.width)
    return torch.as_tensor(masks)
