"""Finding every object of some classes."""
import json

import pytest

from mmdpad.prompts import follows_template
from mmdpad.prompts.template import EXAMPLES
from mmdpad.structures import AnsweredObject
from mmdpad.tasks import DetectionTask

CUP = AnsweredObject((1.0, 2.0, 30.0, 40.0), None, 'cup', 'the blue cup')
PLATE = AnsweredObject((5.0, 6.0, 7.0, 8.0), None, 'Plate')


def answer(*entries):
    return f'<think>so</think><answer>{json.dumps(entries)}</answer>'


def entry(**changes):
    return dict(dict(bbox_2d=[1, 2, 3, 4], label='cup'), **changes)


def test_what_is_composed_is_read_back():
    task = DetectionTask()
    text = task.compose('so', [CUP, PLATE])
    found = task.parse(text)
    assert (found.think, found.caption, found.objects) == ('so', None, (CUP, PLATE))
    assert follows_template(text, caption=False)
    assert task.parse(task.compose('so', [])).objects == ()


def test_labels_and_descriptions_are_written_in_letters():
    words = AnsweredObject((1.0, 2.0, 3.0, 4.0), None, 'jalapeño', '左边的"茶杯"')
    text = DetectionTask().compose('so', [words])
    assert 'jalapeño' in text and r'左边的\"茶杯\"' in text
    assert DetectionTask().parse(text).objects == (words, )


def test_the_example_of_the_template_is_read():
    found = DetectionTask().parse(EXAMPLES['detection'])
    assert [item.label for item in found.objects] == ['class'] * 2
    assert all(item.description for item in found.objects)


@pytest.mark.parametrize('bad, reason', [
    (entry(label=7), 'bad_value'), (entry(label=' '), 'bad_value'),
    ({'label': 'cup'}, 'missing_key'),
    ({'bbox_2d': [1, 2, 3, 4]}, 'missing_key'), (entry(bbox_2d=[3, 2, 3, 4]), 'empty_box'),
    (entry(bbox_2d=[1, 2, 3]), 'bad_value'), ('cup', 'missing_key')])
def test_an_entry_that_cannot_be_used_says_why(bad, reason):
    found = DetectionTask().parse(answer(entry(), bad))
    assert found.reason == reason and len(found.objects) == 2
    assert found.objects[0].label == 'cup'


def test_a_description_may_be_missing():
    for bad in ({}, dict(description=3), dict(description='  ')):
        assert DetectionTask().parse(answer(entry(**bad))).objects[0].description is None


def test_no_more_objects_are_read_than_allowed():
    assert DetectionTask(max_objects=1).parse(answer(entry(), entry())).reason == 'too_many'
    assert DetectionTask().parse(answer(*[entry()] * 10_000)).reason in ('too_many', 'no_json')
