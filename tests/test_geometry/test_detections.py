# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest

from mmdpad.geometry.detections import DetectionMatcher, DetectionTruth, pairwise_iou

LEFT, RIGHT = (0, 0, 10, 10), (20, 0, 30, 10)


def test_iou_measures_between_outer_edges():
    assert pairwise_iou([LEFT], [LEFT, (5, 0, 15, 10), RIGHT]).tolist() == [[1, 1 / 3, 0]]


def test_overlap_with_a_crowd_is_the_share_of_the_box():
    assert pairwise_iou([LEFT], [(5, 0, 100, 100)] * 2, [True, False]).tolist() == [
        [0.5, 50 / (100 + 9500 - 50)]]


@pytest.mark.parametrize('box', [(10, 10, 0, 0), (5, 0, 5, 10)])
def test_a_box_without_area_overlaps_nothing(box):
    assert pairwise_iou([box], [LEFT, box]).tolist() == [[0, 0]]
    assert pairwise_iou([box], [LEFT], [True]).tolist() == [[0]]


def test_boxes_match_targets_of_their_label_only():
    truth = DetectionTruth([LEFT, RIGHT], [0, 1])
    match = DetectionMatcher([RIGHT, RIGHT, LEFT], [0, 1, 0], truth).match(0.5)
    assert sorted(match.pairs) == [(1, 1, 1.0), (2, 0, 1.0)] and match.ignored == set()


def test_as_many_targets_as_possible_are_matched():
    """A greedy matching gives the first target its best box, which leaves none for the second."""
    targets = [(0, 0, 10, 10), (2, 0, 12, 10)]
    boxes = [(1, 0, 11, 10), (-2, 0, 8, 10)]  # the second overlaps the first target only
    match = DetectionMatcher(boxes, [0, 0], DetectionTruth(targets, [0, 0])).match(0.5)
    assert sorted((i, j) for i, j, _ in match.pairs) == [(0, 1), (1, 0)]


def test_an_iou_at_the_threshold_is_no_match():
    match = DetectionMatcher([(0, 0, 10, 20)], [0], DetectionTruth([LEFT], [0])).match(0.5)
    assert match.pairs == []


def test_boxes_on_a_crowd_of_their_label_are_ignored():
    truth = DetectionTruth([LEFT], [0], [(20, 0, 100, 100)], [0], [True])
    match = DetectionMatcher([LEFT, RIGHT, RIGHT, (40, 0, 45, 5)], [0, 0, 1, 0], truth).match(0.5)
    assert match.pairs == [(0, 0, 1.0)] and match.ignored == {1, 3}


def test_a_difficult_object_ignores_boxes_by_iou():
    truth = DetectionTruth([], [], [(20, 0, 100, 100)], [0], [False])
    assert DetectionMatcher([RIGHT, (20, 0, 100, 90)], [0, 0], truth).match(0.5).ignored == {1}


def test_a_target_takes_the_box_that_would_be_a_mistake():
    """Either box may match; the one on the crowd is ignored, whatever the order."""
    truth = DetectionTruth([(0, 0, 10, 10)], [0], [(4, 0, 20, 10)], [0], [True])
    boxes = [(1, 0, 11, 10), (-1, 0, 9, 10)]  # seven tenths of the first are on the crowd
    for order in ((0, 1), (1, 0)):
        match = DetectionMatcher([boxes[i] for i in order], [0, 0], truth).match(0.5)
        assert [order[i] for i, _, _ in match.pairs] == [1]
        assert [order[i] for i in match.ignored] == [0]


def test_unmatched_boxes_of_a_label_that_is_not_exhaustive_are_ignored():
    truth = DetectionTruth([LEFT], [0], not_exhaustive=[0])
    match = DetectionMatcher([RIGHT, LEFT, RIGHT], [0, 0, 1], truth).match(0.5)
    assert match.pairs == [(1, 0, 1.0)] and match.ignored == {0}


def test_a_negative_label_matches_nothing():
    truth = DetectionTruth([LEFT], [-1], not_exhaustive=[-1])
    assert DetectionMatcher([LEFT], [-1], truth).match(0.5) == ([], set())
