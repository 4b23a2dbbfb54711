# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How good detections are at one operating point: F1, counts and rejections, also for each class;
and whether their scores are probabilities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmdpad.evaluation.detection_summary import DETECTIONS, format_classes
from mmdpad.evaluation.measures import Row
from mmdpad.evaluation.provenance import published_scorer
from mmdpad.evaluation.scoring import describe_response, identify
from mmdpad.geometry.detections import DetectionMatcher, DetectionTruth
from mmdpad.registry import METRICS

from .result_file import ResultFileMetric


@METRICS.register_module()
class DetectionMetric(ResultFileMetric):
    """Scores the boxes and labels of each answer at one IoU threshold, whatever their scores, and
    checks the scores.

    Boxes and targets of a label are matched one to one
    (:class:`mmdpad.geometry.detections.DetectionMatcher`), in pixels of the original frame; an IoU
    at the threshold, which COCO accepts, is no match. Crowds, difficult objects and classes that
    are not exhaustively marked are treated as in the rewards (:mod:`mmdpad.rewards.detection`).
    Metrics (prefix ``detection``):

    - ``f1``, ``precision``, ``recall`` over all objects of all questions, and ``macro_f1``, the
      mean of the F1 of all classes with a target or a mistake, in percent; ``mean_iou`` of the
      matches, in percent;
    - ``count_error``: mean absolute difference of the numbers of objects (without ignored ones) and
      targets;
    - ``no_target_accuracy``: the share of questions without a target that got a usable answer
      without objects; ``target_accuracy``: the share of the others that got a usable answer with
      some, in percent;
    - ``invented_rate``: the share of all objects whose label was not asked for;
      ``duplicate_rate``: the share that overlaps a target of its label beyond the threshold, but
      another object has it; both are mistakes, and in [0, 1];
    - ``parse_failure_rate``, ``truncated_rate`` in [0, 1], and ``failed_<reason>``, a count for
      each reason that occurred; such an answer has no objects; ``reasoning_tokens`` and
      ``repetition`` as in :class:`ReasonSegMetric`;
    - ``n``, questions, ``n_no_target``, those without a target, if any, and ``n_images``;
    - unless all scores are 1: ``ece`` and ``ece_width``, the expected calibration error with bins
      of equal mass and of equal width, and ``brier``, the Brier score, all in [0, 1], of the scores
      as probabilities that a box has a match (:mod:`mmdpad.evaluation.calibration`), over all boxes
      that are right or wrong and whose label was asked for.

    Ratios without a denominator are left out. ``<name>_low`` and ``<name>_high`` of F1, precision,
    recall, ``ece`` and ``brier`` bound 95 % bootstrap intervals; the others' are in the file.
    Images are resampled, with all their questions.

    With a log file or an ``out_file``, each evaluation writes a JSON line per question (columns as
    in :func:`mmdpad.evaluation.scoring.identify` and
    :func:`mmdpad.evaluation.scoring.describe_response`; of each object ``boxes``, ``labels``,
    ``label_names``, ``scores``, ``descriptions`` and ``box_right``, None if it is neither right nor
    wrong; ``features``: name -> value for each box, what its score was computed from
    (:class:`mmdpad.models.scorers.ScoredObjects`); ``target_boxes`` and ``target_names``;
    ``targets``, ``right``, ``wrong``, ``missed`` and further counts; ``iou``, the sum over all
    matches; ``classes``: name -> right, wrong and missed objects) and next to it a ``.json`` with
    protocol (``box_scorer``: what gave the scores, and its calibration), metrics, intervals, a
    table of the classes, ``reliability`` (:func:`mmdpad.evaluation.calibration.reliability_curve`),
    and provenance, as :class:`ReasonSegMetric` does.

    Attributes:
        summary: As in :class:`ReasonSegMetric`.

    Args:
        threshold: IoU that a match exceeds, in [0, 1).
        out_file: Where the JSON lines go; None for ``detection[_iter_N].jsonl`` next to the log.
        table: How many classes to log, those with the most targets.
        collect_device, prefix, collect_dir: As in mmengine.

    Raises:
        ValueError: ``threshold`` is out of range, or ``out_file`` does not end in .jsonl.
    """

    kind = DETECTIONS
    default_prefix = DETECTIONS.prefix

    def __init__(self, threshold: float = 0.5, out_file: str | None = None, table: int = 20,
                 collect_device: str = 'cpu', prefix: str | None = None,
                 collect_dir: str | None = None) -> None:
        if not 0 <= threshold < 1:
            raise ValueError(f'`threshold` should be an IoU in [0, 1), but got {threshold}')
        super().__init__(dict(threshold=threshold), out_file, collect_device, prefix, collect_dir)
        self.threshold = threshold
        self.table = table

    @staticmethod
    def reads(sample: dict) -> bool:
        """Whether a sample says which classes it asks for, and has targets."""
        return 'class_labels' in sample and 'instances' in sample

    def score(self, sample: dict) -> Row:
        """Score a sample in the form of ``DetDataSample.to_dict()``: ``classes``, ``class_labels``
        and ``instances`` as packed by :class:`PackReasoningInputs`; ``pred_instances`` and
        ``reasoning`` as written by :class:`ReasoningSegmentor`.

        Raises:
            ValueError: It does not say what it asks for, or has no targets.
        """
        return score_detections(sample, self.threshold)

    def describe_protocol(self, rows: Sequence[Row]) -> dict[str, Any]:
        """As of every metric, and ``box_scorer``."""
        scores = np.array([score for row in rows for score in row['scores']])
        return dict(super().describe_protocol(rows), box_scorer=published_scorer(scores))

    def note(self, summary: dict[str, Any]) -> str:
        """A table of the classes."""
        return format_classes(summary['classes'], self.table)


def score_detections(sample: dict, threshold: float) -> Row:
    """The row of a result file about one question, see :class:`DetectionMetric`."""
    if not DetectionMetric.reads(sample):
        raise ValueError(
            f'DetectionMetric needs `class_labels` and `instances` of each sample, which '
            f'{sample.get("img_path")!r} does not have; ask with `QuestionFromClasses`, with '
            '`TargetsFromBoxes` or `LoadInstanceMasks` in the pipeline')
    predicted = sample['pred_instances']
    boxes, labels = predicted['bboxes'].tolist(), predicted['labels'].tolist()
    features = list(predicted.get('features', ()))
    matcher = DetectionMatcher(boxes, labels, _truth(sample))
    match = matcher.match(threshold)
    matched = {i for i, _, _ in match.pairs}
    unmatched = [i for i in range(len(boxes)) if i not in matched and i not in match.ignored]
    invented = sample.get('reasoning', {}).get('invented', 0)
    wanted, right = len(matcher.truth.labels), len(match.pairs)
    wrong = len(unmatched) + invented
    names = dict(zip(sample['class_labels'], sample['classes'], strict=True))
    counts = [Counter(some) for some in (
        (labels[i] for i in matched), (labels[i] for i in unmatched), matcher.truth.labels)]
    return dict(
        identify(sample), boxes=boxes, labels=labels, scores=predicted['scores'].tolist(),
        label_names=[names[label] for label in labels],
        descriptions=list(predicted.get('descriptions', [''] * len(boxes))),
        box_right=[None if i in match.ignored else i in matched for i in range(len(boxes))],
        features={name: [own[name] for own in features] for name in next(iter(features), ())},
        target_boxes=list(matcher.truth.boxes),
        target_names=[names[label] for label in matcher.truth.labels],
        targets=wanted, right=right, wrong=wrong, missed=wanted - right, iou=match.iou,
        objects=len(boxes) + invented, ignored=len(match.ignored), invented=invented,
        duplicates=matcher.count_duplicates(unmatched, threshold),
        classes={name: [some[label] for some in (counts[0], counts[1], counts[2] - counts[0])]
                 for label, name in names.items() if any(some[label] for some in counts)},
        **describe_response(sample))


def _truth(sample: dict) -> DetectionTruth:
    """The targets of a sample, in the original frame."""
    parts: dict[int, list[dict]] = {0: [], 1: []}
    for instance in sample['instances']:
        parts[instance['ignore_flag']].append(instance)
    targets, ignored = parts[0], parts[1]
    return DetectionTruth(
        [item['bbox'] for item in targets], [item['bbox_label'] for item in targets],
        [item['bbox'] for item in ignored], [item['bbox_label'] for item in ignored],
        [bool(item.get('crowd')) for item in ignored], sample.get('not_exhaustive', ()))
