"""Finding what a question means."""
import pytest

from mmdpad.structures import AnsweredObject, ParseFailure
from mmdpad.tasks import SegmentationTask

POINTS = ((4.0, 4.0), (5.0, 6.0))
OBJECT = AnsweredObject((1.0, 2.0, 30.0, 40.0), POINTS)


def test_a_single_object_is_read_back():
    task = SegmentationTask()
    found = task.parse(task.compose('so', [OBJECT], 'a cup'))
    assert (found.think, found.caption, found.objects) == ('so', 'a cup', (OBJECT, ))
    assert task.template == 'default' and task.decodes_masks and not task.several_objects


def test_several_objects_are_read_back_up_to_a_limit():
    task = SegmentationTask(several_objects=True, max_objects=2)
    one = AnsweredObject(OBJECT.box, POINTS[:1])
    assert task.parse(task.compose('so', [OBJECT] * 2, 'cups')).objects == (one, one)
    assert task.parse(task.compose('so', [], 'none')).objects == ()
    assert task.parse(task.compose('so', [OBJECT] * 3, 'cups')).reason == 'too_many'
    assert task.template == 'several_objects'


def test_a_single_object_needs_a_single_target():
    with pytest.raises(ValueError, match='one target, but has 2; set `several_objects=True`'):
        SegmentationTask().compose('so', [OBJECT] * 2, 'cups')


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match='`max_objects`'):
        SegmentationTask(max_objects=0)
    with pytest.raises(ValueError, match='{question}'):
        SegmentationTask(template='find it')


def test_the_first_braces_count_if_the_reference_is_followed():
    text = '{"bbox": [1, 2, 3, 4], "points_1": [1, 2], "points_2": [1, 2]}'
    assert isinstance(SegmentationTask().parse(text), ParseFailure)
    assert SegmentationTask(reference_compatible=True).parse(text).box == (1, 2, 3, 4)
