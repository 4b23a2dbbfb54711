# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Chooses the best answer by the ground truth, as an upper bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmdpad.geometry.mask_iou import check_ignore_regions, score_mask
from mmdpad.registry import MODELS
from mmdpad.tasks import Task

from .selector import Asked, Selector, check_masks


@MODELS.register_module()
class OracleSelector(Selector):
    """The IoU with the ground truth, in [0, 1]: the upper bound of every selector (pass@N). For
    evaluations of data with masks only.

    Args:
        ignore_regions: See :class:`mmdpad.evaluation.ReasonSegMetric`.

    Raises:
        ValueError: ``ignore_regions`` is unknown.
    """

    name = 'oracle'
    needs_truth = True

    def __init__(self, ignore_regions: str = 'target') -> None:
        check_ignore_regions(ignore_regions)
        self.ignore_regions = ignore_regions

    def check_tasks(self, tasks: Mapping[str, Task]) -> None:
        """See :class:`Selector`."""
        check_masks(self.name, tasks)

    def measure(self, asked: Sequence[Asked], policy: Any) -> list[np.ndarray]:
        """See :class:`Selector`.

        Raises:
            ValueError: A data sample has no ground truth.
        """
        return [np.array([self._iou(one, own) if own.usable else np.nan
                          for own in one.candidates]) for one in asked]

    def _iou(self, asked: Asked, candidate: Any) -> float:
        sample = asked.data_sample
        if 'gt_instances' not in sample:
            raise ValueError(f"`model.test_cfg.select` should not be 'oracle' for data without "
                             f'ground truth, but the question {sample.get("question")!r} has none; '
                             'use another selector')
        answer = dict(pred_instances=dict(masks=candidate.instances.masks),
                      reasoning=dict(parsed=candidate.parsed))
        return score_mask(sample.to_dict() | answer, self.ignore_regions)[2]['iou']
