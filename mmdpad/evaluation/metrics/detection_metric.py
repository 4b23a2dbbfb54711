# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How good detections are at one operating point: F1, counts and rejections, also for each class;
and whether their scores are probabilities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mmdpad.evaluation.bootstrap import bootstrap_ratios, percentile_interval
from mmdpad.evaluation.calibration import (
    boxes_of,
    published_scorer,
    reliability_curve,
    summarize_scores,
)
from mmdpad.evaluation.provenance import published
from mmdpad.evaluation.results import UNKNOWN, in_order
from mmdpad.evaluation.scoring import identify
from mmdpad.evaluation.summary import BOOTSTRAP, Row
from mmdpad.geometry.detections import DetectionMatcher, DetectionTruth
from mmdpad.registry import METRICS
from mmdpad.structures import ParseFailure

from .result_file import ResultFileMetric

# Name of a metric -> what an image adds to its numerator and denominator.
_MEASURES: dict[str, Callable[[Mapping[str, float]], tuple[float, float]]] = dict(
    f1=lambda row: (200 * row['right'], 2 * row['right'] + row['wrong'] + row['missed']),
    precision=lambda row: (100 * row['right'], row['right'] + row['wrong']),
    recall=lambda row: (100 * row['right'], row['right'] + row['missed']),
    mean_iou=lambda row: (100 * row['iou'], row['right']),
    count_error=lambda row: (row['count_error'], row['questions']),
    no_target_accuracy=lambda row: (100 * row['rejected'], row['without_target']),
    target_accuracy=lambda row: (100 * row['answered'], row['questions'] - row['without_target']),
    invented_rate=lambda row: (row['invented'], row['objects']),
    duplicate_rate=lambda row: (row['duplicates'], row['objects']),
    parse_failure_rate=lambda row: (row['failed'], row['questions']),
    truncated_rate=lambda row: (row['truncated'], row['questions']))


@METRICS.register_module()
class DetectionMetric(ResultFileMetric):
    """Scores the boxes and labels of each answer at one IoU threshold, whatever their scores, and
    checks the scores.

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
    - ``n``, questions, and ``n_images``;
    - unless all scores are 1: ``ece`` and ``ece_width``, the expected calibration error with bins
      of equal mass and of equal width, and ``brier``, the Brier score, all in [0, 1], of the scores
      as probabilities that a box has a match
      (:mod:`mmdpad.evaluation.calibration`), over all boxes that are right or wrong and whose label
      was asked for.

    Ratios without a denominator are left out. ``<name>_low`` and ``<name>_high`` of F1, precision,
    recall, ``ece`` and ``brier`` bound 95 % bootstrap intervals; the others' are in the file.
    Images are resampled, with all their questions.

    With a log file or an ``out_file``, each evaluation writes a JSON line per question (columns as
    in :func:`mmdpad.evaluation.scoring.identify`; ``boxes``, ``labels``, ``scores`` and
    ``descriptions``; ``box_right``: whether a box has a match, None if it is ignored; ``features``:
    name -> value for each box, what its score was computed from
    (:class:`mmdpad.models.scorers.ScoredObjects`); all counts; ``classes``: name -> right, wrong
    and missed objects) and next to it a ``.json`` with protocol (``box_scorer``: what gave the
    scores, and its calibration), metrics, intervals, a table of the classes, ``reliability``
    (:func:`mmdpad.evaluation.calibration.reliability_curve`), and provenance, as
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
        right, columns, places = boxes_of(rows)
        scores = columns['scores']
        scored = bool((scores != 1).any())
        protocol = dict(dict(known.get('protocol', {}), threshold=self.threshold),
                        box_scorer=published_scorer(scores))
        metrics, intervals, classes = summarize_detections(rows)
        if scored:
            images = _images_of(rows)
            for found, more in zip((metrics, intervals), summarize_scores(
                    scores, right, images[places], images.max() + 1), strict=True):
                found.update(more)
        summary = dict(
            protocol=protocol, metrics=metrics, intervals=intervals,
            bootstrap=dict(BOOTSTRAP, method='percentile, over images'), classes=classes,
            reliability=reliability_curve(scores, right) if scored else [],
            provenance=known.get('provenance', UNKNOWN))
        return self.finish(rows, summary, ('f1', 'precision', 'recall', 'ece', 'brier'),
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
    features = list(predicted.get('features', ()))
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
        box_right=[None if i in match.ignored else i in matched for i in range(len(boxes))],
        features={name: [own[name] for own in features] for name in next(iter(features), ())},
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


def summarize_detections(rows: Sequence[Row]
                         ) -> tuple[dict[str, float], dict[str, list[float]], dict[str, Any]]:
    """The metrics of :class:`DetectionMetric` from its rows, their intervals by name, and the
    ``precision``, ``recall``, ``f1`` (percent; None without a denominator), ``targets`` and
    ``objects`` of each class by name.

    Raises:
        ValueError: No rows.
    """
    if not rows:
        raise ValueError('`rows` should have at least one question to average over, but got none')
    images: dict[int, Counter[str]] = {}
    for number, row in zip(_images_of(rows).tolist(), rows, strict=True):
        images.setdefault(number, Counter()).update({
            name: value for name, value in row.items()
            if isinstance(value, int | float) and name not in ('id', 'index')})
    columns = np.array([[measure(image) for image in images.values()]
                        for measure in _MEASURES.values()], float)
    above, below = columns[..., 0], columns[..., 1]
    ends = percentile_interval(bootstrap_ratios(above, below)).tolist()
    metrics: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    for name, top, bottom, interval in zip(_MEASURES, above.sum(1), below.sum(1), ends,
                                           strict=True):
        if bottom:
            metrics[name], intervals[name] = float(top / bottom), interval
    classes = _summarize_classes(rows)
    if classes:
        metrics['macro_f1'] = float(np.mean([numbers['f1'] for numbers in classes.values()]))
    metrics.update(n=len(rows), n_images=len(images))
    failures = Counter(row['failure'] for row in rows if row['failure'] is not None)
    metrics.update({f'failed_{reason}': count for reason, count in sorted(failures.items())})
    return metrics, intervals, classes


def _images_of(rows: Sequence[Row]) -> np.ndarray:
    """The number of each row's image, (N,), from 0 on in the order of the rows. A row without an id
    is an image of its own."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(str(place if row['id'] is None else row['id']),
                                        len(numbers)) for place, row in enumerate(rows)])


def _summarize_classes(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """The numbers of each class, by decreasing number of targets."""
    sums: dict[str, np.ndarray] = {}
    for row in rows:
        for name, counts in row['classes'].items():
            sums[name] = sums.get(name, np.zeros(3, int)) + counts
    classes = {}
    for name, (right, wrong, missed) in sorted(
            sums.items(), key=lambda item: (-item[1][0] - item[1][2], item[0])):
        classes[name] = dict(
            targets=int(right + missed), objects=int(right + wrong),
            precision=100 * float(right / (right + wrong)) if right + wrong else None,
            recall=100 * float(right / (right + missed)) if right + missed else None,
            f1=200 * float(right / (2 * right + wrong + missed)))
    return classes


def format_classes(classes: Mapping[str, Mapping[str, Any]], most: int) -> str:
    """A table of the first classes."""
    lines = [f'{"class":24}{"targets":>8}{"objects":>8}{"precision":>10}{"recall":>8}{"F1":>7}']
    for name, numbers in list(classes.items())[:most]:
        precision, recall = ('-' if numbers[key] is None else f'{numbers[key]:.1f}'
                             for key in ('precision', 'recall'))
        lines.append(f'{name[:23]:24}{numbers["targets"]:8}{numbers["objects"]:8}{precision:>10}'
                     f'{recall:>8}{numbers["f1"]:7.1f}')
    if len(classes) > most:
        lines.append(f'... and {len(classes) - most} more classes, in the .json')
    return '\n'.join(lines)
