# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What a mask metric needs from its data set, and which protocols the data set supports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.evaluator import BaseMetric


class IgnoreRegionsMetric(BaseMetric):
    """A metric with the option ``ignore_regions``. It refuses data that require another value,
    leave out items, or lack the ground truth.

    Prepared copies merge the regions into the target, so they cannot be excluded; their
    ``metainfo`` has ``ignore_regions='target'``. Loops set the metainfo before the first batch. If
    concatenated data sets differ in it, it is a list, which is checked with the first batch: by
    then, a metric for one of the data sets (mmdet's ``MultiDatasetsEvaluator``) has that one's.
    """

    ignore_regions: str

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """
        Raises:
            ValueError: The ``ignore_regions`` of a data set differs from the metric's.
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
                    f'include the regions that way, but got {self.ignore_regions!r}; set it in the '
                    'evaluator, or use the original annotations (ReasonSegDataset)')

    def check_samples(self, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """
        Raises:
            ValueError: A sample has no ground truth, its data set left out items as in training,
                or one of several data sets requires another ``ignore_regions``.
        """
        if not self.results and isinstance(self.dataset_meta, Sequence):
            self._check_parts(self.dataset_meta)
        for sample in data_samples:
            check_truth(sample, 'gt_instances')
            if 'left_out' in sample:
                raise ValueError(
                    f'All items should be evaluated, but the data set left out {sample["left_out"]}'
                    ' that mark no target, as in training; set `test_mode=True` in the `dataset` '
                    'of the loader')


def check_truth(sample: Mapping[str, Any], key: str, packed: bool = False) -> None:
    """
    Args:
        sample: In the form of ``DetDataSample.to_dict()``.
        key: Of the ground truth that a metric needs.
        packed: Whether predicted masks may be RLEs.

    Raises:
        ValueError: The ground truth is missing, because the pipeline does not load it or a results
            file does not keep it; or the sample's image has questions that are not asked.
    """
    if 'not_asked' in sample:
        raise ValueError(
            f'All questions should be evaluated, but {sample["not_asked"]} more about '
            f'{sample.get("img_path", "an image")} are not asked, as in training on an mmdet data '
            'set; wrap it: `QuestionDataset(source=dict(...), questions=dict(...))`')
    masks = sample['pred_instances'].get('masks')
    if masks is None:
        raise ValueError(
            f'An answer should have masks to be evaluated by them, but that to '
            f'{sample.get("question")!r} (task {sample.get("task")!r}) has only '
            f'{", ".join(sorted(sample["pred_instances"]))}; use a metric of its task, in a '
            f'mixture of tasks by MultiDatasetsEvaluator')
    rles = not packed and isinstance(masks, list) and all(isinstance(mask, dict) for mask in masks)
    if key not in sample or rles:
        raise ValueError(
            f'A sample should have its ground truth, `{key}`, and masks as arrays, but '
            f'{"its masks are RLEs" if rles else "has " + ", ".join(sorted(sample))}. A pipeline '
            'should load masks (`LoadReasonSegMask`, `LoadInstanceMasks`); for data with boxes '
            "only, use `RewardMetric` with the box and point rewards. mmdet's `DumpDetResults` "
            "drops the ground truth and packs masks: dump with mmengine's `DumpResults`, or keep "
            'masks with `ReasonSegMetric(save_masks=True)` and score them with '
            'tools/analysis_tools/evaluate_masks.py')
