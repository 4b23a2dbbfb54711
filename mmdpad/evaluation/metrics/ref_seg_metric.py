# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""mmdet's metric of referring segmentation, for models whose answers may fail."""

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

    In the scope of mmdpad this takes the place of mmdet's ``RefSegMetric`` ('mmdet.RefSegMetric'
    is still that one), and has its numbers where every answer has exactly one mask. mmdet's cannot
    take an answer without a mask: with a torch that refuses to reshape an empty tensor it raises,
    in the middle of a test, and by its formula the answer is left out of the mean, which rewards
    giving none. It compares each of several masks with the whole target. Here a sample counts once,
    one without masks with IoU 0.

    Regions that ReasonSeg ignores are background here; :class:`ReasonSegMetric` knows them.

    Args:
        metric: Some of 'cIoU' and 'mIoU'.
        **kwargs: Of mmengine's ``BaseMetric``.
    """

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Score samples as ``DetDataSample.to_dict()`` gives them: ``gt_masks`` of
        :func:`mmdpad.datasets.transforms.mmdet_ground_truth` and ``pred_instances`` with masks
        bool (n, H, W), or RLEs of as many, as mmdet's ``DumpDetResults`` keeps both."""
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
