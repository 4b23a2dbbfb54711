"""The tasks of a model."""
import re

import pytest

from mmdpad.tasks import (
    DetectionTask,
    SegmentationTask,
    WrongTask,
    build_tasks,
    describe_tasks,
    find_task,
    tasks_of_model,
    templates_of_model,
)

BOTH = dict(detection=dict(type='DetectionTask', max_objects=3),
            several=dict(type='SegmentationTask', several_objects=True))


def test_without_tasks_there_is_one_with_the_arguments_of_the_model():
    model = dict(several_objects=True, max_objects=7, policy=dict(prompt_template='x {question}'))
    (name, task), = tasks_of_model(model).items()
    assert name == 'segmentation' and isinstance(task, SegmentationTask)
    assert (task.several_objects, task.max_objects, task.template) == (True, 7, 'x {question}')
    assert tasks_of_model({})['segmentation'].template == 'default'


def test_tasks_are_built_in_their_order():
    tasks = tasks_of_model(dict(tasks=BOTH, policy=dict(pretrained='x')))
    assert list(tasks) == ['detection', 'several'] and tasks['detection'].max_objects == 3
    assert templates_of_model(dict(tasks=BOTH)) == dict(detection='detection',
                                                        several='several_objects')
    assert find_task(None, tasks) is tasks['detection']
    assert find_task('several', tasks) is tasks['several']
    with pytest.raises(WrongTask, match=r"\(detection, several\), but got 'vqa'"):
        find_task('vqa', tasks)


@pytest.mark.parametrize('tasks, one, problem', [
    ({}, {}, 'at least one task'), ([BOTH], {}, 'should be a dict'),
    ({'': BOTH['several']}, {}, 'non-empty texts'), ({1: BOTH['several']}, {}, 'non-empty texts'),
    (BOTH, dict(several_objects=True), 'several_objects=True'),
    (BOTH, dict(prompt_template='x'), 'as `template`'), (dict(a=3), {}, '`tasks.a` should be')])
def test_wrong_tasks_are_refused(tasks, one, problem):
    with pytest.raises(ValueError, match=problem):
        build_tasks(tasks, **one)


def test_tasks_are_described_for_result_files():
    assert describe_tasks(build_tasks(several_objects=True)) == dict(
        several_objects=True, reference_compatible=False, prompt_template='default')
    task = DetectionTask(max_objects=2)
    task.pattern, task._seen = re.compile('x'), 3  # a custom task may have any attributes
    assert describe_tasks(dict(one=task)) == dict(tasks=dict(one=dict(
        type='DetectionTask', max_objects=2, template='detection')))
