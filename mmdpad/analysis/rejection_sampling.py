# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Picks responses that a policy gave as targets of supervised training.

With a threshold it is rejection sampling fine-tuning (RFT, arXiv 2308.01825): all different
responses that are good enough, up to a number for each question. With only the best response of
each question it is best-of-N distillation.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdpad.evaluation.best_of_n import CONSENSUS, SampledAnswers
from mmdpad.evaluation.measures import Row
from mmdpad.prompts import normalize_question
from mmdpad.structures.conversation import turns_of
from mmdpad.utils import read_jsonl, unique_name

TOTAL, IOU = 'total', 'iou'
_ROLLOUT = ('response', 'failure', 'truncated', 'rewards', 'total', 'signals')
_SELECTION = ('candidates', 'overlaps', 'vote', 'sums', 'greedy')
_QUESTION = ('id', 'image', 'question')


@dataclass(frozen=True)
class ScoredResponse:
    """A response to a question.

    Attributes:
        id, image, question, task: Of the sample; the path of the image as in the log.
        text: The response.
        score: By which responses are compared; NaN without one.
        fault: Why it cannot be a target; None if it can.
    """

    id: str
    image: str
    question: str
    task: str | None
    text: str
    score: float
    fault: str | None

    @property
    def key(self) -> tuple[str | None, ...]:
        """What the same question has in common."""
        return self.id, self.image, normalize_question(self.question), self.task


def read_responses(path: str, by: str | None = None) -> list[ScoredResponse]:
    """Read the responses of a log or a result.

    Args:
        path: ``rollouts.jsonl`` of :class:`RolloutLogHook`, or the lines of
            :class:`SelectionMetric`.
        by: Their score. In a log, 'total' (the default), a reward term or a signal; in a result,
            'iou' (the default) or a selector other than the vote.

    Raises:
        OSError, ValueError: The file cannot be read or is of another kind, a line does not name its
            sample, or ``by`` is unknown.
    """
    responses: list[ScoredResponse] = []
    for number, row in enumerate(read_jsonl(path), start=1):
        of_kind = next((read for needed, read in ((_ROLLOUT, _of_rollout),
                                                  (_SELECTION, _of_selection))
                        if row.keys() >= {*needed}), None)
        if of_kind is None:
            raise ValueError(f'{path} should be a rollouts.jsonl of RolloutLogHook or the lines of '
                             f'SelectionMetric, but line {number} is neither; name such a file')
        lacks = [name for name in _QUESTION if row.get(name) is None]
        if lacks:
            raise ValueError(f'{path} should name the sample of each response, but line {number} '
                             f'has no {", ".join(lacks)}; such responses cannot be trained on')
        try:
            responses += of_kind(row, by)
        except KeyError as error:
            raise ValueError(f'`by` should be a score in {path}, but line {number} has no '
                             f'{by!r}, only {error.args[0]}; name one of these') from error
    if not responses:
        raise ValueError(f'{path} should hold responses, but is empty')
    return responses


def _of_rollout(row: Row, by: str | None) -> Iterator[ScoredResponse]:
    scores = {TOTAL: row['total'], **row['signals'], **row['rewards']}
    yield _response(row, row, _find(scores, by or TOTAL))


def _of_selection(row: Row, by: str | None) -> Iterator[ScoredResponse]:
    answers = SampledAnswers.of(row)
    scores = {IOU: answers.scores[0], **{
        name: answers.values(name) for name in (*answers.own_values, CONSENSUS, *answers.sums)}}
    for candidate, score in zip(row['candidates'], _find(scores, by or IOU), strict=True):
        yield _response(row, candidate, float(score))


def _find(scores: dict[str, Any], by: str) -> Any:
    if by not in scores:
        raise KeyError(', '.join(scores))
    return scores[by]


def _response(sample: Row, said: Row, score: float | None) -> ScoredResponse:
    fault = ('unusable' if said['failure'] is not None else 'cut off' if said['truncated'] else
             'of several turns' if len(turns_of(said)) > 1 else None)
    return ScoredResponse(str(sample['id']), sample['image'], sample['question'],
                          sample.get('task'), said['response'],
                          math.nan if score is None else score, fault)


def pick_responses(responses: Sequence[ScoredResponse], per_question: int,
                   above: float | None = None) -> tuple[list[ScoredResponse], Counter[str]]:
    """The best responses to each question.

    Args:
        responses: Of one or several logs.
        per_question: How many responses to a question are kept at most, the highest scores first,
            of equal ones the earliest.
        above: Scores that are not above it are left out; None for no limit.

    Returns:
        The responses that are kept, those to a question together, in the order of the questions;
        and for each reason how many were left out. Responses that differ only in white space are
        duplicates.
    """
    left_out: Counter[str] = Counter()
    questions: dict[tuple, list[ScoredResponse]] = {}
    for one in responses:
        reason = one.fault or ('without a score' if math.isnan(one.score) else
                               f'not above {above:g}' if above is not None and one.score <= above
                               else None)
        if reason:
            left_out[reason] += 1
        else:
            questions.setdefault(one.key, []).append(one)
    kept = []
    for found in questions.values():
        different: dict[str, ScoredResponse] = {}
        for one in sorted(found, key=lambda one: -one.score):
            different.setdefault(' '.join(one.text.split()), one)
        left_out['duplicate'] += len(found) - len(different)
        left_out[f'beyond the best {per_question} of a question'] += max(
            0, len(different) - per_question)
        kept += list(different.values())[:per_question]
    return kept, +left_out


def as_targets(responses: Sequence[ScoredResponse], folder: str) -> list[Row]:
    """Lines of :class:`mmdpad.datasets.JsonLinesDataset` with ``response``, the SFT target as the
    policy wrote it, coordinates included.

    Args:
        responses: Those to train on.
        folder: Where the file will be; paths of images are relative to it.

    Raises:
        ValueError: An image does not exist.
    """
    images = dict.fromkeys(one.image for one in responses)
    if missing := [image for image in images if not Path(image).is_file()]:
        raise ValueError(f'The images of the log should exist, but {len(missing)} of {len(images)} '
                         f'do not, such as {missing[0]}; run this in the folder in which the '
                         f'responses were sampled')
    taken: set[str] = set()
    return [dict(id=unique_name(one.id, taken), image=os.path.relpath(one.image, folder),
                 texts=[one.question], response=one.text,
                 **({} if one.task is None else dict(task=one.task))) for one in responses]
