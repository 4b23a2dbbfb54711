# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch

from mmdpad.models.decoders.instances import (
    Instances,
    assign_instances,
    instance_ious,
    match_instances,
)


def instances(*boxes, scores=None):
    """Filled boxes (inclusive) in an image of 20 x 10 pixels."""
    masks = torch.zeros(len(boxes), 10, 20, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2 + 1, x1:x2 + 1] = True
    return Instances.of(masks, torch.tensor(scores or [0.5] * len(boxes)))


def assign(found, boxes, points=None, min_iou=0.3):
    points = np.zeros((len(boxes), 0, 2)) if points is None else np.array(points, float)
    return assign_instances(found, np.array(boxes, float).reshape(-1, 4), points, min_iou).tolist()


def test_the_most_confident_comes_first_with_its_tight_box():
    found = instances((0, 0, 3, 3), (5, 2, 9, 4), scores=[0.2, 0.7])
    assert found.boxes.tolist() == [[5, 2, 9, 4], [0, 0, 3, 3]]
    assert found.scores.tolist() == pytest.approx([0.7, 0.2])
    assert found.masks[:].sum((1, 2)).tolist() == [15, 16]


def test_an_instance_without_a_pixel_is_left_out():
    found = instances((0, 0, 3, 3), (5, 2, 4, 1), (5, 2, 9, 4), scores=[0.2, 0.9, 0.7])
    assert found.boxes.tolist() == [[5, 2, 9, 4], [0, 0, 3, 3]]
    assert found.masks[:].shape == (2, 10, 20)
    assert found.scores.tolist() == pytest.approx([0.7, 0.2])
    assert instances((5, 2, 4, 1)).masks[:].shape == (0, 10, 20)


def test_match_is_the_iou_and_the_share_of_points():
    found = instances((0, 0, 3, 3), (5, 2, 9, 4))
    boxes, points = np.array([[0., 0., 3., 1.]]), np.array([[[1., 1.], [5.4, 2.]]])
    assert instance_ious(found, boxes).tolist() == [[0.5, 0]]
    assert match_instances(found, boxes, points).tolist() == [[1.0, 0.5]]


def test_each_object_gets_the_best_instance_of_its_own():
    found = instances((0, 0, 3, 3), (0, 0, 3, 5))
    # Both fit the first instance best; in total, giving it to the second object is better.
    assert assign(found, [(0, 0, 3, 4), (0, 0, 3, 3)]) == [1, 0]
    assert assign(found, [(0, 0, 3, 3)] * 3)[2] == -1


def test_points_and_confidence_decide_among_equal_boxes():
    found = instances((0, 0, 3, 3), (0, 4, 3, 7), scores=[0.9, 0.1])
    both = [(0, 0, 3, 7)]
    assert assign(found, both) == [0]
    assert assign(found, both, [[(1, 6), (2, 6)]]) == [1]
    twins = instances((0, 0, 3, 3), (0, 0, 3, 3), scores=[0.1, 0.9])
    assert assign(twins, [(0, 0, 3, 3)]) == [0] and twins.scores[0] > 0.8


def test_nothing_fits_below_the_threshold():
    found = instances((0, 0, 3, 3))
    half = [(0, 0, 3, 1)]
    assert assign(found, half, min_iou=0.5) == [0] and assign(found, half, min_iou=0.51) == [-1]
    # A point inside does not help.
    assert assign(found, half, [[(1, 1)]], min_iou=0.51) == [-1]
    assert assign(instances(), half) == [-1] and assign(found, []) == []
