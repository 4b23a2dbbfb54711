# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import pytest
import torch

from mmdpad.datasets.transforms import TargetsFromSolution

SOLUTION = '<box>(10,20),(30,40)</box><points>(15,25),(18,30)</points>'


@pytest.mark.parametrize(('model_shape', 'box', 'points'), [
    ((100, 100), [10, 20, 30, 40], [[15, 25], [18, 30]]),
    # Half as high, twice as wide.
    ((50, 200), [20, 10, 60, 20], [[30, 12.5], [36, 15]]),
], ids=['same', 'scaled'])
def test_targets_are_in_the_frame_of_the_model_image(model_shape, box, points):
    results = TargetsFromSolution()(
        dict(solution=SOLUTION, solution_shape=(100, 100), model_shape=model_shape))
    assert results['model_boxes'].dtype == results['model_points'].dtype == torch.float32
    assert results['model_boxes'].tolist() == [box]
    assert results['model_points'].tolist() == [points]


def test_a_frame_that_is_no_square_keeps_its_order():
    results = TargetsFromSolution()(
        dict(solution=SOLUTION, solution_shape=(40, 80), model_shape=(80, 80)))
    assert results['model_boxes'].tolist() == [[10, 40, 30, 80]]


@pytest.mark.parametrize(('solution', 'boxes', 'points'), [
    ('[{"bbox_2d": [1, 2, 3, 4], "point_2d": [2, 3]}, '
     '{"bbox_2d": [5, 6, 9, 8], "point_2d": [7, 7]}]',
     [[2, 2, 6, 4], [10, 6, 18, 8]], [[[4, 3]], [[14, 7]]]),
    ('[]', [], []),
], ids=['two', 'none'])
def test_several_objects_have_one_point_each(solution, boxes, points):
    results = TargetsFromSolution()(
        dict(solution=solution, solution_shape=(10, 10), model_shape=(10, 20)))
    assert results['model_boxes'].tolist() == boxes
    assert results['model_points'].tolist() == points
    assert results['model_boxes'].shape[1:] == (4, )
    assert results['model_points'].shape[1:] == (1, 2)
