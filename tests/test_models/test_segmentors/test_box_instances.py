"""Labelled boxes of an answer."""
from mmdpad.models.segmentors.box_instances import box_instances
from mmdpad.structures import AnsweredObject

OBJECTS = [AnsweredObject((10., 20., 30., 40.), None, 'Hot_Dog', 'the long one'),
           AnsweredObject((0., 0., 5., 5.), None, 'bird'),
           AnsweredObject((1., 2., 3., 4.), None, 'cup')]


def test_labels_are_those_of_the_data_set_and_others_are_left_out():
    asked = dict(classes=('cup', 'hot dog'), class_labels=(41, 52))
    found, invented = box_instances(OBJECTS, asked, (200, 100), (100, 50))
    assert invented == 1 and found.labels.tolist() == [52, 41] and found.scores.tolist() == [1, 1]
    assert found.label_names == ['Hot_Dog', 'cup'] and found.descriptions == ['the long one', '']
    assert found.bboxes.tolist() == [[20., 40., 60., 80.], [2., 4., 6., 8.]]


def test_without_classes_labels_are_numbered_as_they_occur():
    found, invented = box_instances([*OBJECTS, OBJECTS[0]], {}, (100, 50), (100, 50))
    assert invented == 0 and found.labels.tolist() == [0, 1, 2, 0]


def test_an_answer_without_objects_has_no_instances():
    found, invented = box_instances([], dict(classes=('cup', ), class_labels=(3, )), (9, 9), (9, 9))
    assert (len(found), invented) == (0, 0) and found.bboxes.shape == (0, 4)


def test_an_object_without_a_box_is_no_instance_and_not_invented():
    """A task that points."""
    pointed = AnsweredObject(None, ((3., 4.), ), 'bird')
    for asked in ({}, dict(classes=('cup', ), class_labels=(3, ))):
        found, invented = box_instances([pointed, OBJECTS[2]], asked, (9, 9), (9, 9))
        assert found.bboxes.tolist() == [[1., 2., 3., 4.]] and invented == 0
