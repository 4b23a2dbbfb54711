# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Scores the labelled boxes of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmdet.structures import DetDataSample

from mmdpad.models.non_finite import naming_samples
from mmdpad.models.scorers import BoxScorer, GivenAnswer, ScoredObjects
from mmdpad.models.scorers.box_scorer import build_scorer
from mmdpad.structures import ParseFailure
from mmdpad.tasks import Task

from .answering_ahead import Inputs, select_samples

if TYPE_CHECKING:
    from .reasoning_segmentor import ReasoningSegmentor


def build_box_scorer(config: Any, tasks: Mapping[str, Task], policy: Any) -> BoxScorer | None:
    """Build `model.box_scorer`; None for None.

    Raises:
        ValueError: See :func:`check_labels`, or the scorer cannot be built, or not for this policy
            or these tasks.
    """
    if config is None:
        return None
    check_labels(tasks)
    scorer = build_scorer(config)
    scorer.prepare(policy)
    without = [name for name, task in tasks.items()
               if task.has_labels and type(task).locate is Task.locate]
    if scorer.needs_policy and without:
        raise ValueError(f'`tasks` should have a `locate`, by which this `box_scorer` finds '
                         f'objects in a response, but {without} do not; define it, or use '
                         'DiscriminationScorer')
    return scorer


def check_labels(tasks: Mapping[str, Task]) -> None:
    """Check that a box scorer has something to score.

    Raises:
        ValueError: The objects of no task have labels.
    """
    if not any(task.has_labels for task in tasks.values()):
        raise ValueError(f'`box_scorer` scores labelled boxes, which no task of the model has '
                         f'({", ".join(tasks)}); leave it out, or set '
                         f"`tasks=dict(detection=dict(type='DetectionTask'))`")


def score_answers(model: ReasoningSegmentor, inputs: Inputs, data_samples: Sequence[DetDataSample],
                  answers: Sequence[Mapping[str, Any]]) -> list[ScoredObjects | None]:
    """Score the objects of B answers by the model's scorer, in one call.

    Args:
        model: The model.
        inputs, data_samples: See :meth:`.ReasoningSegmentor.predict`.
        answers: ``response``, ``parsed`` and ``response_ids`` of each.

    Returns:
        One for each answer; None without a scorer, without objects, or if the task has no labels.
    """
    found: list[ScoredObjects | None] = [None] * len(answers)
    scorer = model.box_scorer
    tasks = [model.task_of(sample) for sample in data_samples]
    rows = [row for row, (task, answer) in enumerate(zip(tasks, answers, strict=True))
            if task.has_labels and answer['parsed'].objects
            and not isinstance(answer['parsed'], ParseFailure)]
    if scorer is None or not rows:
        return found
    some, samples, _ = select_samples(inputs, data_samples, rows)
    prompts = (model.encode_prompts(some, samples) if scorer.needs_policy else [None] * len(rows))
    given = [GivenAnswer(some['model_image'][place], answers[row]['parsed'].objects,
                         answers[row]['response'], answers[row]['response_ids'], prompt,
                         tasks[row].locate)
             for place, (row, prompt) in enumerate(zip(rows, prompts, strict=True))]
    with naming_samples(samples):
        scored = scorer(given, model.policy)
    for row, one in zip(rows, scored, strict=True):
        found[row] = one
    return found
