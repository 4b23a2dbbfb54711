# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""COCO's average precision of resampled images.

COCO's own evaluation matches boxes and targets image by image. Only what follows, the curve of
precision over recall, depends on which images there are, so that is all that a draw repeats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval

RECALLS = np.linspace(0, 1, 101)
"""Recalls at which COCO reads the curve."""


class AveragePrecision:
    """Average precision of some detections, for any weights of the images.

    Args:
        file: The ground truth.
        found: For each of N images of the file, an entry with ``image_id``, ``boxes`` (n, 4) XYXY
            in pixels, ``scores`` (n) and ``categories`` (n), ids of the file. Boxes of equal score
            rank in the order of the entries.
    """

    def __init__(self, file: COCO, found: Sequence[Mapping[str, Any]]) -> None:
        images = [entry['image_id'] for entry in found]
        lines = [dict(image_id=entry['image_id'], category_id=category, score=score,
                      bbox=[x1, y1, x2 - x1, y2 - y1])
                 for entry in found for (x1, y1, x2, y2), score, category in zip(
                     entry['boxes'], entry['scores'], entry['categories'], strict=True)]
        evaluation = COCOeval(file, file.loadRes(lines), 'bbox')
        evaluation.params.imgIds = images
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ['all']
        evaluation.evaluate()
        per_class = np.array(evaluation.evalImgs, dtype=object).reshape(-1, len(images))
        self.classes = [_Curve.of(list(some), np.argsort(images)) for some in per_class]

    def __call__(self, weights: np.ndarray, threshold: int | None = None) -> np.ndarray:
        """
        Args:
            weights: (R, N), how often each image counts in each of R draws.
            threshold: Index of a single IoU threshold of COCO's ten; None for their mean.

        Returns:
            (R,) in percent, the mean over the classes with a target; NaN without any.
        """
        values = np.stack([curve.value(weights, threshold) for curve in self.classes])
        known = ~np.isnan(values)
        total, number = np.where(known, values, 0).sum(0), known.sum(0)
        return np.divide(100 * total, number, out=np.full(len(total), np.nan), where=number > 0)


class _Curve:
    """One class: the boxes by falling score, with image, and at T thresholds whether they are right
    and whether they count, which a box on a crowd does not."""

    def __init__(self, images: np.ndarray, right: np.ndarray, counts: np.ndarray,
                 targets: np.ndarray) -> None:
        self.images, self.right, self.counts, self.targets = images, right, counts, targets

    @classmethod
    def of(cls, entries: Sequence[Mapping[str, Any] | None], numbers: np.ndarray) -> _Curve:
        """From COCO's entries of N images by rising id, None where there is neither box nor
        target, and the numbers (N,) of these images."""
        scores, images, right, counts = (
            [np.zeros(0)], [np.zeros(0, int)], [np.zeros((10, 0), bool)], [np.zeros((10, 0), bool)])
        targets = np.zeros(len(entries))
        for number, entry in zip(numbers, entries, strict=True):
            if entry is not None:
                targets[number] = np.sum(~np.array(entry['gtIgnore'], bool))
                scores.append(np.array(entry['dtScores'], float))
                images.append(np.full(len(entry['dtScores']), number))
                counts.append(~np.array(entry['dtIgnore'], bool))
                right.append((entry['dtMatches'] > 0) & counts[-1])
        order = np.argsort(-np.concatenate(scores), kind='mergesort')
        return cls(np.concatenate(images)[order], np.concatenate(right, axis=1)[:, order],
                   np.concatenate(counts, axis=1)[:, order], targets)

    def value(self, weights: np.ndarray, threshold: int | None) -> np.ndarray:
        """(R,) in [0, 1], see :meth:`AveragePrecision.__call__`."""
        total = weights @ self.targets
        counted = weights[:, self.images]
        chosen = slice(None) if threshold is None else slice(threshold, threshold + 1)
        return np.mean([self._area(*(np.cumsum(counted * some, axis=1) for some in both), total)
                        for both in zip(self.right[chosen], self.counts[chosen], strict=True)],
                       axis=0)

    @staticmethod
    def _area(hits: np.ndarray, seen: np.ndarray, total: np.ndarray) -> np.ndarray:
        """The mean over :data:`RECALLS` of the best precision at that recall or a higher one."""
        precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        found = np.full(len(hits), np.nan)
        for draw in np.flatnonzero(total):
            places = np.searchsorted(hits[draw] / total[draw], RECALLS, side='left')
            reached = places < hits.shape[1]
            found[draw] = precision[draw, places[reached]].sum() / len(RECALLS)
        return found
