# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What a metric of masks needs of its data set, and which protocols that can honour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.evaluator import BaseMetric


class IgnoreRegionsMetric(BaseMetric):
    """A metric with the switch ``ignore_regions``: it refuses data that fixes another value, leaves
    out items, or lacks the truth.

    Prepared copies hold the regions as part of the target, so nothing can be left out there; their
    ``metainfo`` says ``ignore_regions='target'``. Loops hand it over before the first batch. Of
    concatenated data sets that differ it is a list, which is looked at with the first batch: by
    then a metric of one of them (mmdet's ``MultiDatasetsEvaluator``) was handed that one's.
    """

    ignore_regions: str

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """
        Raises:
            ValueError: The ``ignore_regions`` of a data set is another than the metric's.
        """
        self._dataset_meta = dataset_meta
        if isinstance(dataset_meta, Mapping):
            self._check_parts([dataset_meta])

    def _check_parts(self, parts: Sequence[Mapping[str, Any]]) -> None:
        for number, part in enumerate(parts, start=1):
            fixed = part.get('ignore_regions') or self.ignore_regions
            if fixed != self.ignore_regions:
                which = f'part {number} of {len(parts)} of ' if len(parts) > 1 else ''
                raise ValueError(
                    f'`ignore_regions` should be {fixed!r} for {which}this data set, whose masks '
                    f'hold the regions so, but got {self.ignore_regions!r}; set it in the '
                    'evaluator, or take the original annotations (ReasonSegDataset)')

    def check_samples(self, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """
        Raises:
            ValueError: A sample has no truth, its data set left out items as training does, or of
                several data sets one fixes another ``ignore_regions``.
        """
        if not self.results and isinstance(self.dataset_meta, Sequence):
            self._check_parts(self.dataset_meta)
        for sample in data_samples:
            check_truth(sample, 'gt_instances')
            if 'left_out' in sample:
                raise ValueError(
                    f'All items should be evaluated, but the data set left out {sample["left_out"]}'
                    ' that mark no target, as training does; set `test_mode=True` in the '
                    '`dataset` of the loader')


def check_truth(sample: Mapping[str, Any], key: str, packed: bool = False) -> None:
    """
    Args:
        sample: As ``DetDataSample.to_dict()`` gives it.
        key: Of the truth that a metric needs.
        packed: Whether predicted masks may be RLEs.

    Raises:
        ValueError: The truth is not there: a pipeline does not load it, or a file of results does
            not keep it. Or the image of the sample has questions that are not asked.
    """
    if 'not_asked' in sample:
        raise ValueError(
            f'All questions should be evaluated, but {sample["not_asked"]} more about '
            f'{sample.get("img_path", "an image")} are not asked, as in training on one of '
            "mmdet's data sets; wrap it: `QuestionDataset(source=dict(...), questions=dict(...))`")
    masks = sample['pred_instances'].get('masks')
    rles = not packed and isinstance(masks, list) and all(isinstance(mask, dict) for mask in masks)
    if key not in sample or rles:
        raise ValueError(
            f'A sample should have its truth, `{key}`, and masks as arrays, but '
            f'{"its masks are RLEs" if rles else "has " + ", ".join(sorted(sample))}. A pipeline '
            'should load masks (`LoadReasonSegMask`, `LoadInstanceMasks`); data that has only '
            'boxes is evaluated by `RewardMetric` with the rewards of boxes and points. mmdet\'s '
            "`DumpDetResults` drops the truth and packs masks: dump by mmengine's `DumpResults`, "
            'or keep masks by `ReasonSegMetric(save_masks=True)` and score them by '
            'tools/analysis_tools/evaluate_masks.py')
