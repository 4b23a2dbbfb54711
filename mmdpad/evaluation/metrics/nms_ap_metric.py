# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""OVDEval's NMS-AP: AP that does not pay for naming an object by every class."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmdpad.geometry.detections import pairwise_iou
from mmdpad.registry import METRICS

from .coco_metric import CocoMetric, Result, pool_images

_PER_BOX = ('bboxes', 'scores', 'labels')


@METRICS.register_module()
class NMSAPMetric(CocoMetric):
    """COCO's AP of the boxes that are left after a suppression by targets (NMS-AP of OVDEval,
    arXiv 2308.13177).

    AP ranks each class by itself, so a detector that gives every object all the labels it was asked
    for, right and wrong, loses little where labels resemble each other ("a red cup", "a blue cup").
    Here, of all boxes with IoU > ``threshold`` to a target, whatever their labels, only the one
    with the highest score is kept (unless another target keeps it), and then AP is computed. Of
    boxes with equal scores the first is kept; OVDEval's script leaves that to a sort that is not
    stable.

    Args:
        ann_file: COCO's file of instances.
        threshold: IoU, in [0, 1).
        **kwargs: As in :class:`CocoMetric`; the prefix is ``nms_ap``.

    Raises:
        ValueError: ``metric`` is not 'bbox'.
    """

    default_prefix = 'nms_ap'

    def __init__(self, ann_file: str | None = None, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(ann_file, **kwargs)
        if self.metrics != ['bbox']:
            raise ValueError(f"`metric` of NMSAPMetric should be 'bbox', but got {self.metrics}")
        self.threshold = threshold

    def compute_metrics(self, results: list[Result]) -> dict[str, float]:
        """See :class:`CocoMetric`.

        Raises:
            ValueError: There is no ``ann_file``.
        """
        if self._file is None:
            raise ValueError('NMSAPMetric needs `ann_file`, but got None; name the file that the '
                             'data set reads')
        return super().compute_metrics([(gt, self._suppress(gt, predicted))
                                        for gt, predicted in pool_images(results)])

    def _suppress(self, gt: dict, predicted: dict) -> dict:
        """The predictions for an image that are kept."""
        targets = [annotation['bbox'] for annotation in self._file.imgToAnns[gt['img_id']]]
        corners = [[x, y, x + width, y + height] for x, y, width, height in targets]
        near = pairwise_iou(predicted['bboxes'], corners) > self.threshold
        scores = np.where(near, np.asarray(predicted['scores'])[:, None], -np.inf)
        kept = ~near.any(axis=1)
        if near.any():
            kept[np.unique(scores.argmax(axis=0)[near.any(axis=0)])] = True
        return dict(predicted, **{name: predicted[name][kept] for name in _PER_BOX})
