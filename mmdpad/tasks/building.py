# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Builds the tasks of a model, from its arguments or from its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from mmdpad.prompts import MAX_OBJECTS
from mmdpad.registry import TASKS
from mmdpad.utils import jsonable

from .segmentation_task import SegmentationTask
from .task import Task, check_max_objects


class WrongTask(ValueError):
    """A question has a task that the model lacks, or that does not fit it."""


_T = TypeVar('_T')
# Arguments of a model that describe its only task, and their defaults.
_OF_ONE = dict(several_objects=False, max_objects=MAX_OBJECTS, reference_compatible=False,
               prompt_template='default')


def build_tasks(tasks: Mapping[str, Any] | None = None, **one: Any) -> dict[str, Task]:
    """Build the tasks of a model. The first one is that of samples that name none.

    Args:
        tasks: Name -> config of a :class:`Task`, or the task itself; None for a single
            :class:`SegmentationTask` named 'segmentation'.
        **one: Arguments of that single task: ``several_objects``, ``max_objects``,
            ``reference_compatible`` and ``prompt_template``.

    Raises:
        ValueError: See :func:`check_task_arguments`; or an entry is not a task.
    """
    check_task_arguments(tasks, **one)
    if tasks is None:
        template = one.pop('prompt_template', _OF_ONE['prompt_template'])
        return dict(segmentation=SegmentationTask(**one, template=template))
    built = {name: TASKS.build(task) if isinstance(task, Mapping) else task
             for name, task in tasks.items()}
    for name, task in built.items():
        if not isinstance(task, Task):
            raise ValueError(f'`tasks.{name}` should be a subclass of `mmdpad.tasks.Task`, but got '
                             f'{type(task).__name__}; use such a class')
    return built


def check_task_arguments(tasks: Mapping[str, Any] | None = None, **one: Any) -> None:
    """Check the arguments of :func:`build_tasks` without building a task.

    Raises:
        ValueError: There are no tasks, a name is not a non-empty text, or an argument in ``one`` is
            given together with ``tasks``, or is out of range.
    """
    if tasks is None:
        check_max_objects(one.get('max_objects', MAX_OBJECTS))
        return
    if given := {name: value for name, value in one.items() if value != _OF_ONE[name]}:
        raise ValueError(f'With `tasks`, the arguments of a single task should be left out of the '
                         f'model, but got {", ".join(f"{k}={v!r}" for k, v in given.items())}; '
                         f'write them into the tasks (the template as `template`)')
    if not isinstance(tasks, Mapping) or not tasks:
        raise ValueError(f'`tasks` should be a dict of at least one task by name, such as '
                         f"dict(detection=dict(type='DetectionTask')), but got {tasks!r}")
    for name in tasks:
        if not isinstance(name, str) or not name:
            raise ValueError(f'The names of `tasks` should be non-empty texts, but got {name!r}')


def task_arguments(model: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the single task of a model, from the config of the model."""
    policy = model.get('policy') or {}
    return {name: (policy if name == 'prompt_template' else model).get(name, default)
            for name, default in _OF_ONE.items()}


def tasks_of_model(model: Mapping[str, Any]) -> dict[str, Task]:
    """:func:`build_tasks` for the config of a :class:`mmdpad.models.ReasoningSegmentor`."""
    return build_tasks(model.get('tasks'), **task_arguments(model))


def find_tasks(model: Mapping[str, Any]) -> dict[str, Task]:
    """:func:`tasks_of_model` for checks of a config; empty if it is wrong, which other checks
    describe."""
    try:
        return tasks_of_model(model)
    except (TypeError, ValueError, LookupError, AttributeError):
        return {}


def templates_of_model(model: Mapping[str, Any]) -> dict[str, str]:
    """The prompt template of each of :func:`tasks_of_model`."""
    return {name: task.template for name, task in tasks_of_model(model).items()}


def find_task(name: str | None, tasks: Mapping[str, _T], owner: str = 'the model') -> _T:
    """The entry of a sample's task; the first one if the sample names none.

    Args:
        name: The sample's task, or None.
        tasks: The model's tasks, or whatever there is for each of them, by name.
        owner: Whose tasks they are, for the message.

    Raises:
        WrongTask: There is no such task.
    """
    if name is None:
        return next(iter(tasks.values()))
    if name not in tasks:
        raise WrongTask(f'The `task` of a question should be one of those of {owner} '
                        f'({", ".join(tasks)}), but got {name!r}; add it to `model.tasks`, or '
                        f'correct the `task` of the data set or call')
    return tasks[name]


def describe_tasks(tasks: Mapping[str, Task]) -> dict[str, Any]:
    """The options of a model's tasks, on which its answers depend, for result files: those of a
    single :class:`SegmentationTask`, or ``tasks``, those of each task by name: its attributes that
    are plain data and not private."""
    first = next(iter(tasks.values()))
    if len(tasks) == 1 and type(first) is SegmentationTask:
        return dict(several_objects=first.several_objects,
                    reference_compatible=first.reference_compatible,
                    prompt_template=first.template,
                    **(dict(negative_points=True) if first.negative_points else {}))
    return dict(tasks={
        name: dict({key: value for key, value in vars(task).items()
                    if not key.startswith('_') and _is_plain(value)},
                   type=type(task).__name__, template=task.template)
        for name, task in tasks.items()})


def _is_plain(value: Any) -> bool:
    """Whether result files can hold a value."""
    try:
        jsonable(value)
    except TypeError:
        return False
    return True
