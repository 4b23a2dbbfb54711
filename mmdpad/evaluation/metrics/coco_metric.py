# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""mmdet's detection metric, for answers to questions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric as CocoMetricOfMMDet
from mmengine.logging import print_log

from mmdpad.datasets.roboflow import merge_categories
from mmdpad.evaluation.provenance import published_scorer
from mmdpad.geometry.masks import encode_mask
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
      about an image form one image. If they ask for classes (``QuestionFromClasses``), labels
      count, and of each image the annotations of the classes that it was asked for. Otherwise all
      of its annotations are to be found, whether asked for or not, and an answer has no category:
      if no category of the file has the name of the data set's class ('object'), all of its
      categories count as that class.
    - ``proposal_fast`` is refused: mmdet's needs the same number of boxes in all images.
    - Categories of the same name in ``ann_file`` are one, as in :class:`RoboflowDataset`.
    - If no answer has any box, AP is 0; mmdet's metric has none then.

    COCO ranks all boxes of a class by their scores, and boxes of equal score in the order in which
    they come. Where all scores are 1, as without a ``model.box_scorer``, AP is that of one
    operating point and depends on the order of the images and of the boxes in an answer. A log line
    names what gave the scores (a warning if all are equal).

    Args:
        ann_file: COCO's file of instances, whose image ids are the items' ``img_id``.
        **kwargs: As in mmdet. With its ``proposal_nums``, ``bbox_mAP`` takes 100 boxes of a class
            in an image and ``bbox_mAP_50`` and the like take 1,000; with (1, 10, 100) all take 100.
    """

    def __init__(self, ann_file: str | None = None, **kwargs: Any) -> None:
        super().__init__(ann_file, **kwargs)
        self._file = self._coco_api
        if self._file is not None and merge_categories(self._file.dataset):
            self._file.createIndex()
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
        mark_asked(self.results, data_samples)

    def compute_metrics(self, results: list[Result]) -> dict[str, float]:
        """See mmdet's.

        Raises:
            ValueError: ``ann_file`` lacks a class that answers may name.
        """
        if any('asked' in gt for gt, _ in results):
            log_scores(self.prefix, results)
        if self._asked and self._file is not None:
            results = _relabel(pool_images(results), self._file, self.dataset_meta['classes'])
            self._coco_api = _narrow(self._file, [gt for gt, _ in results],
                                     self.dataset_meta['classes'])
            self.cat_ids = self.img_ids = None  # of an earlier evaluation
        elif self._asked and not self.format_only:
            results = [(dict(gt, img_id=number), dict(predicted, img_id=number))
                       for number, (gt, predicted) in enumerate(results)]
        if self._asked and not self.format_only:
            results = _with_any_box(results)
        return super().compute_metrics(results)


def log_scores(prefix: str | None, results: Sequence[Result]) -> None:
    """Log what gave the boxes their scores; a warning if all scores are equal."""
    scores = np.concatenate([np.asarray(predicted['scores'], float) for _, predicted in results])
    equal = len(scores) > 1 and bool((scores == scores[0]).all())
    print_log(f'{prefix}: scores of boxes: {published_scorer(scores)}' + (
        f'. All {len(scores)} boxes have the score {scores[0]:g}, so AP is that of one operating '
        'point; set `model.box_scorer` to rank them' if equal else ''), logger='current',
        level=logging.WARNING if equal else logging.INFO)


def mark_asked(results: list[Result], data_samples: Sequence[dict]) -> None:
    """Add ``asked``, the labels that a question asks for, to the last results, if it names
    classes."""
    for (gt, _), sample in zip(results[len(results) - len(data_samples):], data_samples,
                               strict=True):
        if 'class_labels' in sample:
            gt['asked'] = tuple(sample['class_labels'])


def _with_any_box(results: list[Result]) -> list[Result]:
    """The results; if none has a box, with one of no area, which is wrong for every class."""
    if any(len(predicted['labels']) for _, predicted in results):
        return results
    (gt, predicted), *others = results
    box: dict[str, Any] = dict(bboxes=np.zeros((1, 4)), scores=np.zeros(1),
                               labels=np.zeros(1, int))
    if 'masks' in predicted:
        box['masks'] = [encode_mask(np.zeros((gt['height'], gt['width']), bool))]
    return [(gt, dict(predicted, **box)), *others]


def pool_images(results: Iterable[Result]) -> list[Result]:
    """Merge the predictions of all questions about an image, and what they ask for."""
    pooled: dict[Any, Result] = {}
    for gt, predicted in results:
        first = pooled.setdefault(gt['img_id'], (gt, predicted))
        if first[1] is not predicted:
            if 'asked' in gt:
                gt = dict(gt, asked=(*first[0].get('asked', ()), *gt['asked']))
            pooled[gt['img_id']] = gt, {
                name: value if name == 'img_id' else first[1][name] + value
                if isinstance(value, list) else np.concatenate([first[1][name], value])
                for name, value in predicted.items()}
    return list(pooled.values())


def _relabel(results: list[Result], file: COCO, classes: Sequence[str]) -> list[Result]:
    """The results, those of questions about classes with labels numbered in the order of the file's
    categories, as mmdet's metric has them. (A label map may have another order.)"""
    if not any('asked' in gt for gt, _ in results):
        return results
    names = [file.cats[number]['name'] for number in file.get_cat_ids(cat_names=classes)]
    if missing := [name for name in classes if name not in names]:
        raise ValueError(
            f'`ann_file` of CocoMetric should have the classes of the data set, but lacks '
            f'{", ".join(map(repr, missing[:5]))} ({len(missing)} of {len(classes)}); name the '
            'file of the same data, or leave `ann_file` out')
    places = np.array([names.index(name) for name in classes], int)
    return [(dict(gt, asked=tuple(places[list(gt['asked'])].tolist())),
             dict(predicted, labels=places[predicted['labels']]))
            if 'asked' in gt else (gt, predicted) for gt, predicted in results]


def _narrow(file: COCO, images: Sequence[dict], classes: Sequence[str]) -> COCO:
    """The part of a file about some images, in their order, with the data set's categories."""
    categories = list(file.cats.values())
    numbers = file.get_cat_ids(cat_names=classes)
    kept = []
    for gt in images:
        asked = {numbers[place] for place in gt['asked']} if 'asked' in gt else None
        kept += [annotation for annotation in file.imgToAnns[gt['img_id']]
                 if asked is None or annotation['category_id'] in asked]
    # pycocotools reads the id 0, with which some files start, as "no match".
    annotations = [dict(annotation, id=number) for number, annotation in enumerate(kept, start=1)]
    if len(classes) == 1 and classes[0] not in {category['name'] for category in categories}:
        categories = [dict(id=1, name=classes[0])]
        annotations = [dict(annotation, category_id=1) for annotation in annotations]
    part = COCO()
    part.dataset = dict(info=file.dataset.get('info', {}),
                        images=[file.imgs[gt['img_id']] for gt in images],
                        annotations=annotations, categories=categories)
    part.createIndex()
    return part
