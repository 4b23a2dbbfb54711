# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""mmdet's metric of LVIS, for answers to questions about classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from mmdet.evaluation import LVISMetric as LVISMetricOfMMDet

from mmdpad.registry import METRICS

from .coco_metric import Result, log_scores, mark_asked, pool_images


@METRICS.register_module()
class LVISMetric(LVISMetricOfMMDet):
    """mmdet's ``LVISMetric``, adapted to answers to questions about classes
    (``QuestionFromClasses``).

    In the scope of mmdpad this replaces mmdet's metric (still available as 'mmdet.LVISMetric').
    All questions about an image form one image. Only images with a question count, and of each
    image the classes that it was asked for. Whether a class is absent, or not exhaustively marked,
    is decided by the file, as always in LVIS. What :class:`CocoMetric` says of equal scores holds
    here as well.

    Needs the package lvis (``pip install --no-deps lvis``).

    Args:
        ann_file: LVIS' file of instances.
        **kwargs: As in mmdet.
    """

    def __init__(self, ann_file: str | None = None, **kwargs: Any) -> None:
        super().__init__(ann_file, **kwargs)
        self._file = self._lvis_api

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Add samples in the form of ``DetDataSample.to_dict()``.

        Raises:
            ValueError: There is no ``ann_file``, or it does not have an image.
        """
        if self._file is None:
            raise ValueError('LVISMetric needs `ann_file`, which says what each image is known '
                             'not to have, but got None; name the file that the data set reads')
        for sample in data_samples:
            if sample['img_id'] not in self._file.imgs:
                raise ValueError(f'`ann_file` of LVISMetric should have an image with the id '
                                 f'{sample["img_id"]!r} of an item; name the file that the data '
                                 'set reads')
        super().process(data_batch, data_samples)
        mark_asked(self.results, data_samples)

    def compute_metrics(self, results: list[Result]) -> dict[str, float]:
        """See mmdet's."""
        log_scores(self.prefix, results)
        results = pool_images(results)
        self._lvis_api = _narrow(self._file, [gt for gt, _ in results])
        self.cat_ids = self.img_ids = None  # of an earlier evaluation
        with _removed_numpy_names():
            return super().compute_metrics(results)


def _narrow(file: Any, images: Sequence[dict]) -> Any:
    """The part of an ``LVIS`` about some images and what they were asked for."""
    numbers = file.get_cat_ids()  # by label
    kept = []
    for gt in images:
        asked = {numbers[label] for label in gt['asked']} if 'asked' in gt else None
        kept += [annotation for annotation in file.img_ann_map[gt['img_id']]
                 if asked is None or annotation['category_id'] in asked]
    part = object.__new__(type(file))
    part.logger = file.logger
    part.dataset = dict(file.dataset, images=[file.imgs[gt['img_id']] for gt in images],
                        annotations=kept)
    part._create_index()
    return part


@contextmanager
def _removed_numpy_names() -> Iterator[None]:
    """``numpy.float``, which lvis 0.5.3 uses and NumPy 1.24 removed."""
    missing = not hasattr(np, 'float')
    if missing:
        np.float = float
    try:
        yield
    finally:
        if missing:
            del np.float
