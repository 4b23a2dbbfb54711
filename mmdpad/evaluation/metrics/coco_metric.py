# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""mmdet's detection metric, for answers to questions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric as CocoMetricOfMMDet

from mmdpad.registry import METRICS

Result = tuple[dict, dict]
NO_FAST_RECALL = ("`metric` of CocoMetric should not have 'proposal_fast', which mmdet can "
                  'compute only if all images have equally many boxes, and an answer may have '
                  "none; set 'proposal', which gives the same recalls")


@METRICS.register_module()
class CocoMetric(CocoMetricOfMMDet):
    """mmdet's ``CocoMetric``, adapted to answers to questions.

    In the scope of mmdpad this replaces mmdet's metric (still available as 'mmdet.CocoMetric'), and
    does the same for samples without a question. Otherwise:

    - Without ``ann_file`` every question is an image of its own. mmdet's metric merges samples with
      the same ``img_id``, as several questions about an image have in RefCOCO, so the answer to one
      question could match the target of another.
    - With ``ann_file`` only images with a question count, not those of other splits. All questions
      about an image form one image, and all of its annotations are to be found, whether asked for
      or not. An answer has no category: if no category of the file has the name of the data set's
      class ('object'), all of its categories count as that class.
    - ``proposal_fast`` is refused: mmdet's needs the same number of boxes in all images.

    Args:
        ann_file: COCO's file of instances, whose image ids are the items' ``img_id``.
        **kwargs: As in mmdet.
    """

    def __init__(self, ann_file: str | None = None, **kwargs: Any) -> None:
        super().__init__(ann_file, **kwargs)
        self._file = self._coco_api
        self._asked = False

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Add samples in the form of ``DetDataSample.to_dict()``.

        Raises:
            ValueError: An image is not in ``ann_file``, or ``metric`` has 'proposal_fast'.
        """
        for sample in data_samples:
            if 'question' in sample:
                self._asked = True
                if 'proposal_fast' in self.metrics:
                    raise ValueError(NO_FAST_RECALL)
                if self._file is not None and sample['img_id'] not in self._file.imgs:
                    raise ValueError(
                        f'`ann_file` of CocoMetric should have an image with the id '
                        f'{sample["img_id"]!r} of an item, but its ids are '
                        f'{", ".join(map(repr, list(self._file.imgs)[:3]))}, ...; name the file '
                        'that the data set reads, or leave `ann_file` out to use the targets of '
                        'the items as the ground truth')
        super().process(data_batch, data_samples)

    def compute_metrics(self, results: list[Result]) -> dict[str, float]:
        """See mmdet's."""
        if self._asked and self._file is not None:
            results = _pool(results)
            self._coco_api = _narrow(self._file, [gt['img_id'] for gt, _ in results],
                                     self.dataset_meta['classes'])
            self.cat_ids = self.img_ids = None  # of an earlier evaluation
        elif self._asked and not self.format_only:
            results = [(dict(gt, img_id=number), dict(predicted, img_id=number))
                       for number, (gt, predicted) in enumerate(results)]
        return super().compute_metrics(results)


def _pool(results: Iterable[Result]) -> list[Result]:
    """Merge the predictions of all questions about an image."""
    pooled: dict[Any, Result] = {}
    for gt, predicted in results:
        first = pooled.setdefault(gt['img_id'], (gt, predicted))[1]
        if first is not predicted:
            pooled[gt['img_id']] = gt, {
                name: value if name == 'img_id' else first[name] + value
                if isinstance(value, list) else np.concatenate([first[name], value])
                for name, value in predicted.items()}
    return list(pooled.values())


def _narrow(file: COCO, image_ids: Sequence[Any], classes: Sequence[str]) -> COCO:
    """The part of a file about some images, in their order, with the data set's categories."""
    categories = list(file.cats.values())
    # pycocotools reads the id 0, with which some files start, as "no match".
    annotations = [dict(annotation, id=number) for number, annotation in enumerate(
        (annotation for i in image_ids for annotation in file.imgToAnns[i]), start=1)]
    if len(classes) == 1 and classes[0] not in {category['name'] for category in categories}:
        categories = [dict(id=1, name=classes[0])]
        annotations = [dict(annotation, category_id=1) for annotation in annotations]
    part = COCO()
    part.dataset = dict(info=file.dataset.get('info', {}), images=[file.imgs[i] for i in image_ids],
                        annotations=annotations, categories=categories)
    part.createIndex()
    return part
