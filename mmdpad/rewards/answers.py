# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Whether an answer in words is right, and whether its evidence is where the answer is seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Subset

from mmdpad.geometry.boxes import Numbers, outer_edges
from mmdpad.geometry.detections import pairwise_iou
from mmdpad.prompts.short_answers import is_match, read_choice, read_number, vqa_accuracy
from mmdpad.registry import REWARDS
from mmdpad.structures import ReasoningOutput, RolloutBatch

MEASURES = ('vqa', 'exact', 'number')
EVIDENCE_MEASURES = ('iou', 'recall')


@REWARDS.register_module()
class AnswerReward:
    """How right the answer in words is; 0 for a response that cannot be used.

    Range [0, 1]. Source: beyond DPAD; see :func:`score_answer` for the measures and theirs.

    Args:
        measure: 'vqa', 'exact' or 'number'.
        tolerance: Relative error that 'number' accepts, not negative.

    Raises:
        ValueError: The measure is unknown, or the tolerance is negative or not finite.
    """

    def __init__(self, measure: str = 'vqa', tolerance: float = 0.0) -> None:
        check_measure(measure, tolerance)
        self.measure, self.tolerance = measure, tolerance

    def __call__(self, rollout: RolloutBatch) -> Tensor:
        """Returns a (B, G) tensor in [0, 1].

        Raises:
            ValueError: A prompt has no ``answers``.
        """
        asked = [asked_answers(sample) for sample in rollout.data_samples]
        return rollout.per_response([
            score_answer(parsed.answer or '', *asked[row // rollout.group_size], self.measure,
                         self.tolerance) if isinstance(parsed, ReasoningOutput) else 0.0
            for row, parsed in enumerate(rollout.parsed)])


@REWARDS.register_module()
class EvidenceIoUReward:
    """How well the boxes of evidence fit those of the data, matched one to one (Hungarian).

    'iou' is the sum of the matches' IoUs, divided by the larger of the numbers of boxes and
    targets, so superfluous boxes cost as much as missed ones. 'recall' divides by the number of
    targets, so superfluous boxes cost nothing: use it only where the data mark a part of what shows
    the answer, and bound the boxes by the task's ``max_objects``. The boxes of an answer that
    cannot be used count as far as they can be read.

    Where the data have no evidence for a question, all its responses earn 0, so that the term
    favors none of them; ``rollout.signals['evidence_iou']`` is the same value, NaN there.

    Range [0, 1]. Source: beyond DPAD; sides have inclusive pixels, as in :class:`BoxIoUReward`, but
    boxes that are one pixel wide overlap, too.

    Args:
        measure: 'iou' or 'recall'.
        threshold: Count matches whose IoU exceeds it instead of adding up IoUs, in [0, 1).

    Raises:
        ValueError: The measure is unknown, or the threshold is out of range.
    """

    def __init__(self, measure: str = 'iou', threshold: float | None = None) -> None:
        if measure not in EVIDENCE_MEASURES:
            raise ValueError(f'`measure` should be one of {EVIDENCE_MEASURES}, but got {measure!r}')
        if threshold is not None and not 0 <= threshold < 1:
            raise ValueError(f'`threshold` should be an IoU in [0, 1), or None, but got '
                             f'{threshold}')
        self.measure, self.threshold = measure, threshold

    def prepare(self, model: Any = None, dataset: Any = None) -> None:
        """
        Raises:
            ValueError: No question of the training data has evidence.
        """
        items = list(range(len(dataset))) if hasattr(dataset, '__len__') else []
        if isinstance(dataset, Subset):
            dataset, items = dataset.dataset, list(dataset.indices)
        if items and hasattr(dataset, 'get_data_info') and not any(
                dataset.get_data_info(number).get('num_targets', 1) for number in items):
            raise ValueError('EvidenceIoUReward compares with boxes of evidence, but no question '
                             'of the training data has any; leave the term out, or use data with '
                             'evidence')

    def __call__(self, rollout: RolloutBatch) -> Tensor:
        """Returns a (B, G) tensor in [0, 1]."""
        targets = [[outer_edges(box) for box in boxes.tolist()] for boxes in rollout.target_boxes]
        found = []
        for row, parsed in enumerate(rollout.parsed):
            wanted = targets[row // rollout.group_size]
            boxes = [item.box and outer_edges(item.box) for item in parsed.objects]
            found.append(score_evidence(boxes, wanted, self.measure, self.threshold)
                         if wanted else float('nan'))
        values = rollout.per_response(found)
        rollout.signals['evidence_iou'] = values
        return values.nan_to_num(0.0)


def check_measure(measure: str, tolerance: float) -> None:
    """
    Raises:
        ValueError: The measure is unknown, or the tolerance is negative or not finite.
    """
    if measure not in MEASURES:
        raise ValueError(f'`measure` should be one of {MEASURES}, but got {measure!r}')
    if not 0 <= tolerance < math.inf:
        raise ValueError(f'`tolerance` should be a relative error, 0 or more and finite, but got '
                         f'{tolerance}')


def asked_answers(sample: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The answers that are right, and the choices (empty without any), of a data sample.

    Raises:
        ValueError: It has no answers.
    """
    answers = sample.get('answers')
    if not answers:
        raise ValueError(
            f'An answer in words needs `answers` to be compared with, which the question '
            f'{sample.get("question")!r} does not have; use a data set of answered questions, such '
            f'as GQADataset, or name the `tasks` that this is for')
    return answers, sample.get('choices') or ()


def score_answer(answer: str, answers: Sequence[str], choices: Sequence[str] = (),
                 measure: str = 'vqa', tolerance: float = 0.0) -> float:
    """How right an answer is, in [0, 1].

    Args:
        answer: The answer; '' is never right.
        answers: Those of the annotators, at least one.
        choices: If there are any, an answer counts as the choice that it names by letter or text
            (:func:`mmdpad.prompts.read_choice`), and is right, with 1, if an annotator names the
            same one. The measure does not matter then.
        measure: 'vqa' is VQA's soft accuracy (:func:`mmdpad.prompts.vqa_accuracy`,
            arXiv 1505.00468). 'exact' is 1 for the answer of any annotator, after VQA's
            normalization. 'number' is 1 if both have a number
            (:func:`mmdpad.prompts.read_number`), and it differs from an annotator's by no more than
            ``tolerance`` times that one (ChartQA's relaxed accuracy has 0.05, arXiv 2203.10244);
            without numbers it is 'exact'.
        tolerance: See 'number'.

    >>> score_answer('A', ['red'], ['red', 'blue']), score_answer('two', ['2'] * 2 + ['3'] * 8)
    (1.0, 0.6)
    """
    if not answer.strip():
        return 0.0
    if choices:
        chosen = read_choice(answer, choices)
        return float(chosen is not None and chosen in [read_choice(text, choices)
                                                       for text in answers])
    if measure == 'vqa':
        return vqa_accuracy(answer, answers)
    return float(is_match(answer, answers) or measure == 'number' and any(
        _is_near(answer, text, tolerance) for text in answers))


def _is_near(answer: str, wanted: str, tolerance: float) -> bool:
    found, number = read_number(answer), read_number(wanted)
    return found is not None and number is not None and (
        abs(found - number) <= tolerance * abs(number))


def score_evidence(boxes: Sequence[Numbers | None], targets: Sequence[Numbers],
                   measure: str = 'iou', threshold: float | None = None) -> float:
    """How well boxes of evidence fit, see :class:`EvidenceIoUReward`.

    Args:
        boxes: M predicted boxes XYXY; None for one that could not be read.
        targets: N boxes in the same frame, at least one. x2 and y2 are outer edges, as of the boxes
            (:func:`mmdpad.geometry.boxes.outer_edges`).
        measure, threshold: See :class:`EvidenceIoUReward`.

    Returns:
        A value in [0, 1].
    """
    from scipy.optimize import linear_sum_assignment  # not at the top: the import takes 0.2 s
    overlap = pairwise_iou([box for box in boxes if box is not None], targets)
    ious = overlap[linear_sum_assignment(overlap, maximize=True)].tolist()
    values = ious if threshold is None else [float(iou > threshold) for iou in ious]
    return sum(values) / (len(targets) if measure == 'recall' else max(len(boxes), len(targets)))
