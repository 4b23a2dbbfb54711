# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How right answers in words are, and whether the model looks at what shows them."""

from __future__ import annotations

from typing import Any

from mmdpad.evaluation.answer_summary import ANSWERS
from mmdpad.evaluation.measures import Row
from mmdpad.evaluation.scoring import describe_response, identify
from mmdpad.geometry.boxes import outer_edges
from mmdpad.geometry.targets import covered_pixels
from mmdpad.registry import METRICS
from mmdpad.rewards.answers import asked_answers, check_measure, score_answer, score_evidence

from .result_file import ResultFileMetric

FAILED_ANSWERS = 'accuracy 0, evidence IoU 0'


@METRICS.register_module()
class QuestionAnsweringMetric(ResultFileMetric):
    """Scores answers in words and their evidence (:class:`mmdpad.tasks.QuestionAnsweringTask`).

    Metrics (prefix ``vqa``), in percent unless stated otherwise:

    - ``accuracy`` by ``measure``, and ``accuracy_of_<type>`` for each type of question in the data;
    - over the questions whose evidence the data know, in pixels of the original image:
      ``evidence_iou`` (:class:`mmdpad.rewards.EvidenceIoUReward`), ``evidence_recall``, the share
      of all boxes of evidence that the answer's boxes match with an IoU above ``threshold``, and
      ``evidence_accuracy``, the share of questions with right evidence: an evidence IoU above
      ``threshold``;
    - over the same questions, is the model looking? ``accuracy_given_right_evidence`` and
      ``accuracy_given_wrong_evidence``: an answer that does not depend on the evidence is as often
      right with the wrong one; ``grounded_accuracy``, the mean of the accuracy where answers with
      wrong evidence count as wrong; ``no_evidence_rate`` in [0, 1], the share of usable answers
      without any;
    - ``parse_failure_rate``, ``truncated_rate`` in [0, 1], ``failed_<reason>``, a count for each
      reason that occurred, and ``reasoning_tokens``, ``caption_tokens``, ``repetition``, as in
      :class:`ReasonSegMetric`. A failed answer has accuracy and evidence IoU 0;
    - ``n``, questions, and ``n_evidence``, those whose evidence is known.

    A metric that no question counts for is left out. ``accuracy_low`` and ``accuracy_high`` bound
    its 95 % bootstrap interval; those of all others are in the file.

    With a log file or an ``out_file``, each evaluation writes a JSON line per question and next to
    it a ``.json`` with protocol, metrics, intervals and provenance, as :class:`ReasonSegMetric`
    does. A line has the columns of :func:`mmdpad.evaluation.scoring.identify` and
    :func:`score_question`.

    Attributes:
        summary: As in :class:`ReasonSegMetric`.

    Args:
        measure: 'vqa', 'exact' or 'number', see :func:`mmdpad.rewards.score_answer`. Questions with
            choices are scored by the choice.
        tolerance: Relative error that 'number' accepts.
        threshold: IoU that right evidence exceeds, in [0, 1).
        out_file: Where the JSON lines go; None for ``vqa[_iter_N].jsonl`` next to the log.
        collect_device, prefix, collect_dir: As in mmengine.

    Raises:
        ValueError: The measure is unknown, a number is out of range, or ``out_file`` does not end
            in .jsonl.
    """

    kind = ANSWERS
    default_prefix = ANSWERS.prefix

    def __init__(self, measure: str = 'vqa', tolerance: float = 0.0, threshold: float = 0.5,
                 out_file: str | None = None, collect_device: str = 'cpu',
                 prefix: str | None = None, collect_dir: str | None = None) -> None:
        check_measure(measure, tolerance)
        if not 0 <= threshold < 1:
            raise ValueError(f'`threshold` should be an IoU in [0, 1), but got {threshold}')
        self.options: dict[str, Any] = dict(measure=measure, tolerance=tolerance,
                                            threshold=threshold)
        super().__init__(dict(self.options, failed_samples=FAILED_ANSWERS), out_file,
                         collect_device, prefix, collect_dir)

    @staticmethod
    def reads(sample: dict) -> bool:
        """Whether a sample has answers."""
        return bool(sample.get('answers'))

    def score(self, sample: dict) -> Row:
        """Score a sample in the form of ``DetDataSample.to_dict()``: ``answers`` and ``evidence``
        as packed by :class:`PackReasoningInputs`; ``pred_instances`` and ``reasoning`` as written
        by :class:`ReasoningSegmentor`.

        Raises:
            ValueError: It has no answers.
        """
        return score_question(sample, **self.options)


def score_question(sample: dict, measure: str, tolerance: float, threshold: float) -> Row:
    """The row of a result file about one question.

    Args:
        sample: See :meth:`QuestionAnsweringMetric.score`.
        measure, tolerance, threshold: See :class:`QuestionAnsweringMetric`.

    Returns:
        Besides the columns of :func:`mmdpad.evaluation.scoring.identify`: ``question_type`` and
        ``answers`` of the data; ``evidence``, their boxes, and ``num_evidence``; ``answer`` and
        ``boxes``, the model's; ``accuracy``, ``evidence_iou`` in [0, 1], ``evidence_found`` (boxes)
        and ``evidence_right``, None without evidence in the data; and those of
        :func:`mmdpad.evaluation.scoring.describe_response`.
    """
    answers, choices = asked_answers(sample)
    response = describe_response(sample)
    answer = getattr(sample.get('reasoning', {}).get('parsed'), 'answer', None)
    boxes = sample['pred_instances']['bboxes'].tolist()
    evidence = sample.get('evidence') or ()
    (height, width), seen = sample['ori_shape'], sample.get('model_shape', sample['ori_shape'])
    found = [outer_edges(box, (width / seen[1], height / seen[0])) for box in boxes]
    targets = [outer_edges(box) for box in covered_pixels(evidence, height, width).tolist()]
    iou = score_evidence(found, targets) if targets else None
    return dict(
        identify(sample), question_type=sample.get('question_type'), answers=list(answers),
        evidence=[list(box) for box in evidence], num_evidence=len(evidence), answer=answer,
        boxes=boxes, accuracy=0.0 if response['failure'] or not answer else score_answer(
            answer, answers, choices, measure, tolerance),
        evidence_iou=iou, evidence_found=None if iou is None else round(
            len(targets) * score_evidence(found, targets, 'recall', threshold)),
        evidence_right=None if iou is None else iou > threshold, **response)
