# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How well the scores of a run's boxes rank them, and whether they are probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO

from mmdpad.evaluation.calibration import boxes_of, fit_platt, reliability_curve, sum_gaps
from mmdpad.utils.log_odds import log_odds, sigmoid

from .average_precision import AveragePrecision
from .task_study import Draws, Measured, Row, scene_number

SCORES = dict(none=(), likelihood=('likelihood', ), discrimination=('discrimination', ),
              combined=('score', ), fitted=('likelihood', 'discrimination'))
"""Name of a score -> the features that it is calibrated from. Raw, 'none' is 1 for every box, and
'fitted' does not exist: its weights come from the validation scenes."""
RAW = ('none', 'likelihood', 'discrimination', 'combined')


class ScoredRun:
    """The boxes of a run on the test scenes, with several scores.

    Args:
        rows: Of ``DetectionMetric`` on the test scenes, with the features of a ``CombinedScorer``.
        fitted_on: The same on the validation scenes, to calibrate on.
        file: Ground truth of the test scenes.
        draws: Of the scenes.

    Attributes:
        scores: (name, whether calibrated) -> scores (n,) of the boxes that are right or wrong;
            others, on ignored objects, count only in AP, as COCO counts them.
            A score that is unknown, as of a description that cannot be used, is 0.
        right: (n,) bool.
        measured: '<name>[, calibrated] <measure>' -> the number and its draws (R,); measures are
            AP and AP50 in percent, ECE (bins of equal mass) and Brier score. A calibration keeps
            the order of boxes unless it is fitted on two features, so AP is not repeated.
    """

    def __init__(self, rows: Sequence[Row], fitted_on: Sequence[Row], file: COCO,
                 draws: Draws) -> None:
        self.right = boxes_of(rows)[0]
        judged, columns, places = boxes_of([dict(row, box_right=[
            right is not None for right in row['box_right']]) for row in rows])
        known, known_columns, _ = boxes_of(fitted_on)
        columns, known_columns = ({name: np.nan_to_num(own) for name, own in some.items()}
                                  for some in (columns, known_columns))
        every: dict[tuple[str, bool], np.ndarray] = {}
        for name, features in SCORES.items():
            if name in RAW:
                every[name, False] = columns[features[0]] if features else np.ones(len(judged))
            if features:
                fit = fit_platt(np.stack([log_odds(known_columns[key]) for key in features]), known)
                logits = np.array(fit['weights']) @ np.stack(
                    [log_odds(columns[key]) for key in features]) + fit['bias']
                every[name, True] = sigmoid(logits)
        self.scores = {key: scores[judged] for key, scores in every.items()}
        images = np.array([scene_number(rows[place]) for place in places[judged]])
        self.measured: dict[str, tuple[float, np.ndarray]] = {}
        for (name, calibrated), scores in self.scores.items():
            title = f'{name}, calibrated' if calibrated else name
            if not calibrated or name not in RAW:
                found = _average_precision(rows, every[name, calibrated], places, file)
                for measure, threshold in (('AP', None), ('AP50', 0)):
                    self.measured[f'{title} {measure}'] = (
                        float(found(draws.ones, threshold)[0]), found(draws.counts, threshold))
            number = draws.ones.shape[1]
            counts = np.bincount(images, minlength=number)
            gaps = sum_gaps(scores, self.right, images, number)
            errors = np.bincount(images, (scores - self.right)**2, number)
            for measure, value in (('ECE', lambda w, gaps=gaps: np.abs(w @ gaps.T).sum(1)),
                                   ('Brier', lambda w, errors=errors: w @ errors)):
                self.measured[f'{title} {measure}'] = (
                    float(value(draws.ones)[0] / counts.sum()),
                    value(draws.counts) / (draws.counts @ counts))

    def curve(self, name: str, calibrated: bool) -> list[dict[str, float]]:
        """The reliability curve of a score."""
        return reliability_curve(self.scores[name, calibrated], self.right)


def measure_scores(runs: Sequence[ScoredRun]) -> Measured:
    """All measures of the runs of an arm."""
    return {name: ([run.measured[name][0] for run in runs],
                   [run.measured[name][1] for run in runs]) for name in runs[0].measured}


def _average_precision(rows: Sequence[Row], scores: np.ndarray, places: np.ndarray,
                       file: COCO) -> AveragePrecision:
    """Of all questions about an image together."""
    found: dict[int, dict[str, Any]] = {
        number: dict(image_id=number, boxes=[], scores=[], categories=[])
        for number in sorted({scene_number(row) for row in rows})}
    for number, row in enumerate(rows):
        entry = found[scene_number(row)]
        entry['boxes'] += row['boxes']
        entry['categories'] += [label + 1 for label in row['labels']]
        entry['scores'] += scores[places == number].tolist()
    return AveragePrecision(file, list(found.values()))
