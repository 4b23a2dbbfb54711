# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Computes the reward terms of stored responses without any model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from mmdpad.geometry.coordinates import to_model_frame
from mmdpad.prompts import parse_objects_solution
from mmdpad.registry import type_name
from mmdpad.rewards import ReasoningLengthReward, RewardComposition, list_rewards, score_response
from mmdpad.rewards.detection import DetectionReward
from mmdpad.structures import ParseFailure, RolloutBatch
from mmdpad.tasks import SegmentationTask, Task, WrongTask, find_task


def score_responses(rows: Sequence[Mapping[str, Any]],
                    composition: RewardComposition, coordinates: str = 'pixels',
                    model_shape: tuple[int, int] = (840, 840),
                    tasks: Mapping[str, Task] | None = None) -> list[dict[str, Any]]:
    """Score responses by the rule terms of a config, and by the published scorer.

    Args:
        rows: With ``response`` and ``solution`` (:func:`mmdpad.prompts.parse_objects_solution`;
            if it is a list, the answer must be one too), and ``reasoning_tokens`` if a term counts
            them; and optionally ``task``.
        composition: See :func:`build_rule_terms`.
        coordinates: The coordinates used in the responses, one of
            :data:`mmdpad.geometry.coordinates.COORDINATES`; solutions are in pixels.
        model_shape: (height, width) of the model images; needed unless coordinates are pixels.
        tasks: The tasks of the model, one of which reads a response: that of the row's ``task``, or
            the first; None for a segmentation of one object or several, as the solution is.

    Returns:
        Each row with its original entries and ``failure`` (a reason or None), ``rewards`` (by
        term, unweighted; those of its task), ``total`` (weighted) and ``published``
        (:func:`mmdpad.rewards.score_response`; None if the solution is a list or the coordinates
        are not pixels).

    Raises:
        ValueError: A row cannot be scored (given by its number, from 1) or lacks
            ``reasoning_tokens``, or a term needs more than a solution, such as labels or answers in
            words.
    """
    _check_lengths(composition, rows)
    targets = [_read_targets(number, row) for number, row in enumerate(rows, start=1)]
    read = [_task_of(number, row, tasks) for number, row in enumerate(rows, start=1)]
    _check_labels(composition, [name for name, _ in read])
    parsed = [to_model_frame(task.parse(row['response']), coordinates, model_shape)
              for row, (_, task) in zip(rows, read, strict=True)]
    rollout = RolloutBatch(
        data_samples=[_Question(model_targets=own, task=name)
                      for own, (name, _) in zip(targets, read, strict=True)],
        model_images=[], group_size=1, texts=[row['response'] for row in rows], parsed=parsed,
        reasoning_tokens=torch.tensor([math.nan if row.get('reasoning_tokens') is None
                                       else float(row['reasoning_tokens']) for row in rows]))
    try:
        composition.score(rollout)
    except RuntimeError as error:
        cause = error.__cause__
        if not (isinstance(cause, ValueError) or isinstance(cause, AttributeError)
                and isinstance(cause.obj, _Question)):
            raise
        raise ValueError(f'{error}. Of its question, a line gives a term no more than `solution` '
                         f'and `task`; leave out the term') from error
    total = composition.total(rollout)
    return [dict(
        row, failure=answer.reason if isinstance(answer, ParseFailure) else None,
        rewards={name: float(values[i, 0]) for name, values in rollout.rewards.items()
                 if not values[i, 0].isnan()},
        total=float(total[i, 0]),
        published=(None if _is_list(row['solution']) or coordinates != 'pixels' else
                   score_response(row['response'], row['solution'])))
        for i, (row, answer) in enumerate(zip(rows, parsed, strict=True))]


class _Question(SimpleNamespace):
    """What a line says about its question, in place of a data sample."""

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)


def summarize_responses(scored: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over rows of :func:`score_responses`: ``n``, ``total``, each term by its name, those
    of the published scorer, prefixed with ``published/``, over the rows it can score, and
    ``failed_<reason>``, a count for each reason that occurred."""
    published = [row['published'] for row in scored if row['published'] is not None]
    names = dict.fromkeys(name for row in scored for name in row['rewards'])
    columns = {'total': [row['total'] for row in scored],
               **{name: [row['rewards'][name] for row in scored if name in row['rewards']]
                  for name in names}}
    if published:
        columns.update({f'published/{name}': [row[name] for row in published]
                        for name in published[0]})
    failures = Counter(row['failure'] for row in scored if row['failure'] is not None)
    return dict(n=len(scored),
                **{name: sum(values) / len(values) for name, values in columns.items()},
                **{f'failed_{reason}': count for reason, count in sorted(failures.items())})


def build_rule_terms(rewards: Mapping[str, Mapping[str, Any]]) -> RewardComposition:
    """Build the terms of a config, none of which may need a model.

    Raises:
        ValueError: A term needs a model.
        KeyError, TypeError: See :func:`mmdpad.rewards.build_term`.
    """
    for reward in list_rewards(dict(train_cfg=dict(rewards=rewards))):
        for kind, part in reward.parts:
            if getattr(kind, 'needs_model', False):
                raise ValueError(f'Reward terms should need no model here, but {reward.name!r} is '
                                 f'a {type_name(part)}; leave it out')
    composition = RewardComposition(dict(rewards))
    composition.prepare()
    return composition


def find_rule_terms(config: Mapping[str, Any]) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """The terms of a config by name, except those that need a model; and the names of the excluded
    ones. A term counts the same whether a hook or ``train_cfg.rewards`` adds it."""
    listed = list_rewards(config)
    left_out = [reward.name for reward in listed if reward.needs('model')]
    found = {reward.name: reward.config for reward in listed if reward.name not in left_out}
    return found, left_out


def _check_lengths(composition: RewardComposition, rows: Sequence[Mapping[str, Any]]) -> None:
    """Check that the rows have what terms that count tokens need."""
    for name, term in composition.terms.items():
        counts = isinstance(getattr(term, 'term', term), ReasoningLengthReward)
        if counts and not all('reasoning_tokens' in row for row in rows):
            raise ValueError(f'Reward term {name!r} counts tokens, so each line should have '
                             f'`reasoning_tokens`, as result files do; add it, or leave out the '
                             f'term')


def _check_labels(composition: RewardComposition, tasks: Sequence[str]) -> None:
    """Raise ValueError if a term scores detections: a solution has no labels. ``tasks`` are those
    of the rows."""
    for name, term in composition.terms.items():
        own = composition.tasks[name]
        for number, task in enumerate(tasks, start=1):
            if isinstance(term, DetectionReward) and (own is None or task in own):
                raise ValueError(f'line {number}: the reward term {name!r} needs targets with '
                                 f'labels, which a `solution` does not have; leave out the lines '
                                 f'of the task {task!r}, or the term')


def _task_of(number: int, row: Mapping[str, Any],
             tasks: Mapping[str, Task] | None) -> tuple[str, Task]:
    """Name and task of a row."""
    if tasks is None:
        return 'segmentation', SegmentationTask(_is_list(row['solution']))
    try:
        task = find_task(row.get('task'), tasks)
    except WrongTask as error:
        raise ValueError(f'line {number}: {error}') from error
    return row.get('task') or next(iter(tasks)), task


def _read_targets(number: int, row: Mapping[str, Any]) -> SimpleNamespace:
    """``bboxes`` (K, 4) and ``points`` (K, P, 2) of a row's targets."""
    for name in ('response', 'solution'):
        if not isinstance(row.get(name), str):
            raise ValueError(f'line {number} should have `response` and `solution`, both text, but '
                             f'`{name}` is {row.get(name)!r}; the files of RolloutLogHook hold no '
                             f'solutions, but already contain rewards (`mmdpad run '
                             f'show_rollouts` shows them)')
    tokens = row.get('reasoning_tokens', 0)
    if not isinstance(tokens, int | float | None) or (tokens or 0) > 1e9:
        raise ValueError(f'line {number}: `reasoning_tokens` should be a number or null, but is '
                         f'{row["reasoning_tokens"]!r}')
    try:
        objects = parse_objects_solution(row['solution'])
    except ValueError as error:
        raise ValueError(f'line {number}: {error}') from error
    return SimpleNamespace(bboxes=torch.tensor([box for box, _ in objects]).reshape(-1, 4),
                           points=torch.tensor([points for _, points in objects]))


def _is_list(solution: str) -> bool:
    return solution.lstrip().startswith('[')
