# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Which protocol of ReasonSeg's 'ignore' regions a data set can honour."""

from __future__ import annotations

from mmengine.evaluator import BaseMetric


class IgnoreRegionsMetric(BaseMetric):
    """A metric with the switch ``ignore_regions``: it refuses data that fixes another value.

    Prepared copies hold the regions as part of the target, so nothing can be left out there; their
    ``metainfo`` says ``ignore_regions='target'``. Loops hand it over before the first batch.
    """

    ignore_regions: str

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        """
        Raises:
            ValueError: The data set's ``ignore_regions`` is another than the metric's.
        """
        fixed = dataset_meta.get('ignore_regions', self.ignore_regions)
        if fixed != self.ignore_regions:
            raise ValueError(
                f'`ignore_regions` should be {fixed!r} for this data set, whose masks hold the '
                f'regions so, but got {self.ignore_regions!r}; set it in the evaluator, or take '
                'the original annotations (ReasonSegDataset)')
        self._dataset_meta = dataset_meta
