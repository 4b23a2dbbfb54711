# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Points that are not of the object: written, read, and converted with the rest of an answer."""
import json

import pytest

from mmdpad.geometry.coordinates import to_model_frame
from mmdpad.geometry.crops import Crop
from mmdpad.prompts import parse_response
from mmdpad.prompts.parser import MAX_NEGATIVES
from mmdpad.prompts.template import EXAMPLES
from mmdpad.structures import AnsweredObject, ParseFailure
from mmdpad.tasks import SegmentationTask, describe_tasks

OBJECT = AnsweredObject((1., 2., 30., 40.), ((4., 4.), (5., 6.)),
                        negative_points=((40., 6.), (0., 9.)))
PLAIN = AnsweredObject(OBJECT.box, OBJECT.points)
TASK = SegmentationTask(negative_points=True, template='negative_points')


def answer(negatives, several=False):
    entry = (dict(bbox_2d=[1, 2, 30, 40], point_2d=[4, 4]) if several else
             dict(bbox=[1, 2, 30, 40], points_1=[4, 4], points_2=[5, 6]))
    if negatives is not None:
        entry['negative_points'] = negatives
    return f'<think>t</think>\n<answer>{json.dumps([entry] if several else entry)}</answer>'


def test_they_are_read_back():
    text = TASK.compose('so', [OBJECT], 'a cup')
    assert '"points_2": [5, 6], "negative_points": [[40, 6], [0, 9]]}' in text
    assert TASK.parse(text).objects == (OBJECT, )
    several = SegmentationTask(several_objects=True, negative_points=True)
    mixed = (AnsweredObject(OBJECT.box, OBJECT.points[:1], negative_points=((7., 8.), )),
             AnsweredObject(OBJECT.box, OBJECT.points[:1]))
    text = several.compose('so', mixed, 'cups')
    assert text.count('negative_points') == 1 and several.parse(text).objects == mixed
    relative = SegmentationTask(negative_points=True).compose(
        'so', [AnsweredObject((0.1, 0.2, 0.3, 0.4), ((0.15, 0.25), (0.2, 0.3)),
                              negative_points=((0.55555, 0.6), ))], 'a cup',
        coordinates='relative_1')
    assert '"negative_points": [[0.556, 0.6]]' in relative


def test_without_them_everything_is_as_if_there_were_no_such_key():
    assert TASK.compose('so', [PLAIN], 'a cup') == SegmentationTask().compose(
        'so', [PLAIN], 'a cup')
    text = TASK.compose('so', [OBJECT], 'a cup')
    assert SegmentationTask().parse(text) == SegmentationTask().parse(
        TASK.compose('so', [PLAIN], 'a cup'))


def test_its_own_template_switches_them_on():
    task = SegmentationTask(template='negative_points')
    assert task.parse(EXAMPLES['negative_points']).objects[0].negative_points


def test_result_files_name_them_only_where_they_are_used():
    other, plain = SegmentationTask(several_objects=True), SegmentationTask()
    assert describe_tasks(dict(a=TASK)) == dict(
        several_objects=False, reference_compatible=False, prompt_template='negative_points',
        negative_points=True)
    assert 'negative_points' not in describe_tasks(dict(a=plain))
    named = describe_tasks(dict(a=TASK, b=other))['tasks']
    assert named['a']['negative_points'] and 'negative_points' not in named['b']


def test_the_template_has_an_example_that_is_read():
    (found, ) = TASK.parse(EXAMPLES['negative_points']).objects
    assert found.negative_points == ((150., 190.), )
    assert parse_response(EXAMPLES['negative_points']) == parse_response(EXAMPLES['default'])


@pytest.mark.parametrize('several', [False, True])
@pytest.mark.parametrize('negatives, read', [
    (None, ()), ([], ()), ([[7, 8]], ((7., 8.), )), ([[-5, 1e8]], ((-5., 1e8), )),
    ([[1, 1]] * MAX_NEGATIVES, ((1., 1.), ) * MAX_NEGATIVES)])
def test_usable_ones(negatives, read, several):
    found = parse_response(answer(negatives, several), False, several, negative_points=True)
    assert found.objects[0].negative_points == read


@pytest.mark.parametrize('several', [False, True])
@pytest.mark.parametrize('negatives', [
    [7, 8], [[7]], [[7, 8, 9]], [[7, '8']], [[7, True]], [[7, None]], [7, [7, 8]], 'none', {}, 0,
    False, [[7, 1e999]], [[7, 8], []], [[1, 1]] * (MAX_NEGATIVES + 1)])
def test_bad_ones_are_a_failure_like_bad_points_if_they_are_used(negatives, several):
    text = answer(negatives, several)
    found = parse_response(text, False, several, negative_points=True)
    assert isinstance(found, ParseFailure) and found.reason == 'bad_value'
    assert found.box == OBJECT.box and found.objects[0].negative_points == ()
    assert parse_response(text, False, several) == parse_response(
        answer(None, several), False, several)


def test_a_null_is_none_of_them():
    text = answer([]).replace('"negative_points": []', '"negative_points": null')
    assert 'null' in text and TASK.parse(text) == TASK.parse(answer(None))


def test_they_are_converted_with_the_rest():
    written = TASK.parse(answer([[500, 250], [2000, -10]]))
    (found, ) = to_model_frame(written, 'relative_1000', (416, 832)).objects
    assert found.negative_points == (pytest.approx((416, 104)), pytest.approx((1664, -4.16)))
    crop = Crop((80, 150, 160, 300), (140, 84))  # of 800 x 600
    (found, ) = crop.answer_to_model_frame(TASK.parse(answer([[42, 70]])), 'pixels', (600, 800),
                                           (112, 140)).objects
    assert found.negative_points == (pytest.approx((120 * 140 / 800, 225 * 112 / 600)), )
