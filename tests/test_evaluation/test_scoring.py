# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch

from mmdpad.evaluation.scoring import boxes_are_right, score_points, score_sample
from mmdpad.structures import ParseFailure, ReasoningOutput

TARGET = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], bool)
IGNORED = np.array([[0, 0, 1, 0], [0, 0, 0, 0]], bool)


@pytest.mark.parametrize('points, as_target, excluded', [
    ([(0.5, 0.5), (1.9, 0.9)], 1.0, 1.0),  # each in its pixel, not at the nearest
    ([(1.9, 0.9), (2.0, 0.9)], 1.0, 1.0),  # the second lies on an ignored pixel
    ([(1.9, 0.9), (1.9, 1.0)], 0.5, 0.5),
    ([(2.5, 0.5), (3.5, 0.5)], 0.5, 0.0),  # one ignored, one missed
    ([(2.5, 0.5)], 1.0, 0.0),  # nothing is left
    ([(-0.1, 0.5), (0.5, -0.1), (4.0, 0.5), (0.5, 2.0)], 0.0, 0.0),  # outside
    ([(float('nan'), 0.5), (0.5, 0.5)], 0.5, 0.5),
    ([], 0.0, 0.0),
])
def test_points_by_hand(points, as_target, excluded):
    points = np.array(points, float).reshape(-1, 2)
    assert score_points(points, TARGET, IGNORED, 'target') == as_target
    assert score_points(points, TARGET, IGNORED, 'exclude') == excluded


A, B = [0, 0, 9, 9], [20, 20, 29, 29]


@pytest.mark.parametrize('boxes, targets, right', [
    ([A], [A], True),
    ([[0, 0, 9, 4]], [A], False),  # 50 of 100 pixels: not more than a half
    ([[0, 0, 9, 5]], [A], True),
    ([B, A], [A, B], True),  # any order
    ([A, A], [A, B], False),
    ([A], [A, B], False), ([A, B], [A], False),
    ([], [], True), ([A], [], False), ([], [A], False),
])
def test_boxes_by_hand(boxes, targets, right):
    assert boxes_are_right(boxes, targets) is right


def sample(targets, masks, parsed=None, **predicted):
    """Masks are lists of pixels (x, y) in an image of 4 x 2 pixels."""
    def draw(objects):
        drawn = torch.zeros(len(objects), 2, 4, dtype=torch.bool)
        for mask, pixels in zip(drawn, objects, strict=True):
            for x, y in pixels:
                mask[y, x] = True
        return drawn
    return dict(gt_instances=dict(masks=draw(targets)),
                pred_instances=dict(masks=draw(masks), **predicted),
                reasoning=dict(parsed=parsed or ReasoningOutput('a b a b a b', None, ())))


def answer(*objects):
    """Boxes and points of an answer about objects at single pixels."""
    return dict(bboxes=torch.tensor([[x, y, x + 1, y + 1] for x, y in objects]).reshape(-1, 4),
                points=torch.tensor([[[x, y]] for x, y in objects]).reshape(-1, 1, 2))


def scores(*args, **kwargs):
    row = score_sample(sample(*args, **kwargs), 'target')
    return tuple(row[name] for name in ('num_targets', 'iou', 'union', 'area', 'pointing',
                                        'boxes_right'))


def test_several_objects_count_by_their_union():
    square, other = [(0, 0), (1, 0), (0, 1), (1, 1)], [(2, 0), (3, 0), (2, 1), (3, 1)]
    assert scores([square, other], [other, square], **answer((2, 0), (0, 0))) == (
        2, 1.0, 8, 8, 1.0, True)
    assert scores([square, other], [square], **answer((0, 0))) == (2, 0.5, 8, 4, 1.0, False)


def test_no_target():
    assert scores([], [], **answer()) == (0, 1.0, 0, 0, 1.0, True)
    assert scores([], [[(0, 0)]], **answer((0, 0))) == (0, 0.0, 1, 1, 0.0, False)
    assert scores([[(0, 0)]], [], **answer()) == (1, 0.0, 1, 0, 0.0, False)


@pytest.mark.parametrize('targets', [[], [[(0, 0)]]])
def test_a_failed_answer_is_right_in_nothing(targets):
    failed = scores(targets, [], ParseFailure('no_json', 'none'), **answer())
    assert failed == (len(targets), 0.0, len(targets), 0, 0.0, False)


def test_a_model_without_points_and_boxes_is_not_scored_by_them():
    row = score_sample(sample([[(0, 0)]], [[(0, 0)]]), 'target')
    assert (row['iou'], row['pointing'], row['boxes_right']) == (1.0, None, None)
    assert row['repetition'] == pytest.approx(1 / 3)  # of "a b a b", "b a b a" and "a b a b"
