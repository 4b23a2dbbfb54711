# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How good detections without scores are: F1, counts and rejections, for each class as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmdpad.evaluation.detection_summary import format_classes, summarize_detections
from mmdpad.evaluation.provenance import published
from mmdpad.evaluation.results import UNKNOWN, in_order
from mmdpad.evaluation.scoring import identify
from mmdpad.evaluation.summary import BOOTSTRAP, Row
from mmdpad.geometry.detections import DetectionMatcher, DetectionTruth
from mmdpad.registry import METRICS
from mmdpad.structures import ParseFailure

from .result_file import ResultFileMetric


@METRICS.register_module()
class DetectionMetric(ResultFileMetric):
    """Scores the boxes and labels of each answer at one IoU threshold, without their scores.

    Boxes and targets of a label are matched one to one
    (:class:`mmdpad.geometry.detections.DetectionMatcher`), in pixels of the original frame. Crowds,
    difficult objects and classes that are not exhaustively marked are treated as in the rewards
    (:mod:`mmdpad.rewards.detection`). Metrics (prefix ``detection``):

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
      each reason that occurred; such an answer has no objects;
    - ``n``, questions, and ``n_images``.

    Ratios without a denominator are left out. ``<name>_low`` and ``<name>_high`` of F1, precision
    and recall bound 95 % bootstrap intervals; the others' are in the file. Images are resampled,
    with all their questions.

    With a log file or an ``out_file``, each evaluation writes a JSON line per question (columns as
    in :func:`mmdpad.evaluation.scoring.identify`; ``boxes``, ``labels``, ``scores`` and
    ``descriptions``; all counts; ``classes``: name -> right, wrong and missed objects) and next to
    it a ``.json`` with protocol, metrics, intervals, a table of the classes, and provenance, as
    :class:`ReasonSegMetric` does.

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

    default_prefix = 'detection'

    def __init__(self, threshold: float = 0.5, out_file: str | None = None, table: int = 20,
                 collect_device: str = 'cpu', prefix: str | None = None,
                 collect_dir: str | None = None) -> None:
        if not 0 <= threshold < 1:
            raise ValueError(f'`threshold` should be an IoU in [0, 1), but got {threshold}')
        super().__init__(out_file, collect_device, prefix, collect_dir)
        self.threshold = threshold
        self.table = table

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Score samples in the form of ``DetDataSample.to_dict()``: ``classes``, ``class_labels``
        and ``instances`` as packed by :class:`PackReasoningInputs`; ``pred_instances`` and
        ``reasoning`` as written by :class:`ReasoningSegmentor`.

        Raises:
            ValueError: A sample does not say what it asks for, or has no targets.
        """
        self.results.extend(score_detections(sample, self.threshold) for sample in data_samples)

    def compute_metrics(self, results: list[Row]) -> dict[str, float]:
        """Sum up all questions and write the files."""
        rows = in_order(results)
        known = published()
        protocol = dict(threshold=self.threshold, **known.get('protocol', {}))
        metrics, intervals, classes = summarize_detections(rows)
        summary = dict(
            protocol=protocol, metrics=metrics, intervals=intervals,
            bootstrap=dict(BOOTSTRAP, method='percentile, over images'), classes=classes,
            provenance=known.get('provenance', UNKNOWN))
        return self.finish(rows, summary, ('f1', 'precision', 'recall'),
                           '\n' + format_classes(classes, self.table))


def score_detections(sample: dict, threshold: float) -> Row:
    """The row of a result file about one question, see :class:`DetectionMetric`."""
    if 'class_labels' not in sample or 'instances' not in sample:
        raise ValueError(
            f'DetectionMetric needs `class_labels` and `instances` of each sample, which '
            f'{sample.get("img_path")!r} does not have; ask with `QuestionFromClasses`, with '
            '`TargetsFromBoxes` or `LoadInstanceMasks` in the pipeline')
    predicted, reasoning = sample['pred_instances'], sample.get('reasoning', {})
    parsed = reasoning.get('parsed')
    failure = parsed if isinstance(parsed, ParseFailure) else None
    boxes, labels = predicted['bboxes'].tolist(), predicted['labels'].tolist()
    matcher = DetectionMatcher(boxes, labels, _truth(sample))
    match = matcher.match(threshold)
    matched = {i for i, _, _ in match.pairs}
    unmatched = [i for i in range(len(boxes)) if i not in matched and i not in match.ignored]
    invented = reasoning.get('invented', 0)
    wanted, right = len(matcher.truth.labels), len(match.pairs)
    wrong = len(unmatched) + invented
    names = dict(zip(sample['class_labels'], sample['classes'], strict=True))
    counts = [Counter(some) for some in (
        (labels[i] for i in matched), (labels[i] for i in unmatched), matcher.truth.labels)]
    return dict(
        identify(sample), boxes=boxes, labels=labels, scores=predicted['scores'].tolist(),
        descriptions=list(predicted.get('descriptions', ())),
        targets=wanted, right=right, wrong=wrong, missed=wanted - right, iou=match.iou,
        objects=len(boxes) + invented, ignored=len(match.ignored), invented=invented,
        duplicates=matcher.count_duplicates(unmatched, threshold),
        count_error=abs(right + wrong - wanted), questions=1, without_target=int(not wanted),
        rejected=int(not wanted and failure is None and not right + wrong),
        answered=int(bool(wanted) and failure is None and len(boxes) + invented > 0),
        failed=int(failure is not None), failure=failure and failure.reason,
        failure_detail=failure and failure.detail, truncated=int(reasoning.get('truncated', False)),
        classes={name: [some[label] for some in (counts[0], counts[1], counts[2] - counts[0])]
                 for label, name in names.items() if any(some[label] for some in counts)},
        think=getattr(parsed, 'think', None), response=reasoning.get('response'))


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
