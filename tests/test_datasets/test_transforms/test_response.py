# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch

from mmdpad.datasets import DatasetError
from mmdpad.datasets.transforms import ComposeResponse
from mmdpad.tasks import Task


def targets(**fields):
    return dict(ann_path='data/a.json', model_boxes=torch.tensor([[1., 2., 30., 40.]]),
                model_points=torch.tensor([[[5., 6.], [7., 8.]]]), **fields)


def test_composes_by_hand():
    results = ComposeResponse()(targets(think='it is red.', caption='a red star'))
    assert results['response'] == (
        '<think>it is red.</think>\n'
        '<answer>{"bbox": [1, 2, 30, 40], "points_1": [5, 6], "points_2": [7, 8]}</answer>\n'
        '<caption>a red star</caption>')


def test_a_given_response_is_taken_as_it_is():
    assert ComposeResponse()(dict(response=' mine ', think='a'))['response'] == ' mine '


@pytest.mark.parametrize('given, missing', [
    ({}, '`think` and `caption`'), (dict(think='a'), '`caption`'), (dict(caption='a'), '`think`')])
def test_what_is_missing_is_named_with_its_file(given, missing):
    with pytest.raises(DatasetError, match=rf'^data/a\.json lacks {missing} for .*; add both'):
        ComposeResponse()(targets(**given))


@pytest.mark.parametrize('count', [0, 2])
def test_several_objects_are_a_list_and_refused_where_one_is_answered(count):
    results = targets(think='so', caption='stars')
    for key in ('model_boxes', 'model_points'):
        results[key] = results[key].repeat(count, *[1] * (results[key].ndim - 1))
    with pytest.raises(DatasetError, match=f'one target, but has {count}; set `several_objects'):
        ComposeResponse()(dict(results))
    entry = '{"bbox_2d": [1, 2, 30, 40], "point_2d": [5, 6]}'
    assert (f'<answer>[{", ".join([entry] * count)}]</answer>'
            in ComposeResponse(several_objects=True)(results)['response'])


def test_writes_the_coordinates_that_the_policy_speaks():
    """In a model image 64 wide and 40 high: x / 64 * 1000 and y / 40 * 1000, rounded."""
    results = targets(think='so', caption='a star', model_shape=(40, 64))
    composed = ComposeResponse(coordinates='relative_1000')(dict(results))
    assert ('{"bbox": [16, 50, 469, 1000], "points_1": [78, 150], "points_2": [109, 200]}'
            in composed['response'])
    assert composed['response_coordinates'] == 'relative_1000'
    fractions = ComposeResponse(coordinates='relative_1')(dict(results))['response']
    assert ('{"bbox": [0.016, 0.05, 0.469, 1.0], "points_1": [0.078, 0.15], '
            '"points_2": [0.109, 0.2]}' in fractions)
    assert composed['model_boxes'].equal(results['model_boxes'])  # targets stay in pixels
    assert ComposeResponse()(dict(results))['response_coordinates'] == 'pixels'
    with pytest.raises(ValueError, match="`coordinates` should be one of .*, but got 'metres'"):
        ComposeResponse(coordinates='metres')


DETECTIONS = dict(model_labels=torch.tensor([7]), class_labels=(3, 7), classes=('cup', 'plate'))
TASKS = dict(segmentation=dict(type='SegmentationTask'), detection=dict(type='DetectionTask'))


def test_the_task_of_an_item_decides_what_is_composed():
    step = ComposeResponse(tasks=TASKS)
    assert '"points_1"' in step(targets(think='so', caption='a star'))['response']
    item = dict(targets(think='so', task='detection'), **DETECTIONS)
    del item['model_points']
    assert step(dict(item, descriptions=['the blue one']))['response'] == (
        '<think>so</think>\n<answer>[{"bbox_2d": [1, 2, 30, 40], "label": "plate", "description": '
        '"the blue one"}]</answer>')
    with pytest.raises(DatasetError, match=r'^data/a\.json lacks `think` .*; add `think`, or a'):
        step(dict(targets(task='detection'), **DETECTIONS))
    with pytest.raises(DatasetError, match="those of ComposeResponse .* but got 'detection'"):
        ComposeResponse()(item)
    with pytest.raises(DatasetError, match='model_points'):
        step({key: value for key, value in targets(think='so', caption='a').items()
              if key != 'model_points'})


def test_an_answer_in_words_needs_no_boxes():
    step = ComposeResponse(tasks=dict(qa=dict(type='QuestionAnsweringTask')),
                           coordinates='relative_1000')
    item = dict(think='so', caption='a star', answer='2 </answer>')
    text = step(dict(item))['response']
    assert text.startswith('<think>so</think>\n<answer>{"answer": "2 <\\/answer>", "evidence": []}')
    found = step.tasks['qa'].parse(text)
    assert (found.answer, found.objects, found.caption) == ('2 </answer>', (), 'a star')
    boxes = step(dict(targets(), model_shape=(40, 60), **item))['response']
    assert '"evidence": [[17, 50, 500, 1000]]' in boxes
    with pytest.raises(DatasetError, match='model_boxes'):
        ComposeResponse(several_objects=True)(item)


class NumberTask(Task):
    template = 'how many {question}'
    texts = ('answer', )
    has_objects = False

    def parse(self, text):
        raise NotImplementedError

    def compose(self, think, objects, caption=None, answer=None, coordinates='pixels'):
        return f'{think}|{objects}|{caption}|{answer}'


def test_a_task_without_objects_and_reasoning_needs_neither():
    step = ComposeResponse(tasks=dict(number=NumberTask()))
    assert step(dict(answer='7'))['response'] == '|[]|None|7'
    with pytest.raises(DatasetError, match='lacks `answer`'):
        step(dict(think='so'))
