# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What a model is asked to do: how a question is put, and how the response is read."""

from .building import (
    WrongTask,
    build_tasks,
    check_task_arguments,
    describe_tasks,
    find_task,
    find_tasks,
    task_arguments,
    tasks_of_model,
    templates_of_model,
)
from .detection_task import DetectionTask
from .question_answering_task import QuestionAnsweringTask
from .segmentation_task import SegmentationTask
from .task import Parsed, Task

__all__ = [
    'DetectionTask', 'Parsed', 'QuestionAnsweringTask', 'SegmentationTask', 'Task', 'WrongTask',
    'build_tasks', 'check_task_arguments', 'describe_tasks', 'find_task', 'find_tasks',
    'task_arguments', 'tasks_of_model', 'templates_of_model'
]
