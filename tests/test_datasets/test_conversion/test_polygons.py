# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import cv2
import numpy as np
import pytest

from mmdpad.datasets.conversion import polygons_from_mask
from mmdpad.datasets.labelme_shapes import Polygon
from mmdpad.datasets.reason_seg_annotation import draw_masks


def drawn(polygons, shape):
    return draw_masks([Polygon(points, False) for points in polygons], *shape)[0]


def test_a_square_has_four_corners():
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:7] = True
    (square, ) = polygons_from_mask(mask)
    assert sorted(map(tuple, square.tolist())) == [(2, 1), (2, 3), (6, 1), (6, 3)]


def test_a_hole_is_cut_out_of_one_polygon():
    mask = np.ones((5, 7), bool)
    mask[2, 3] = False
    (polygon, ) = polygons_from_mask(mask)
    assert np.array_equal(drawn([polygon], mask.shape), mask)


@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (9, 1)])
def test_thin_masks(shape):
    mask = np.ones(shape, bool)
    assert np.array_equal(drawn(polygons_from_mask(mask), shape), mask)
    assert polygons_from_mask(~mask) == []


@pytest.mark.parametrize('seed', range(60))
def test_polygons_draw_the_same_mask_again(seed):
    """Noise, noise of blocks and smooth shapes: many parts, holes in a row, islands in holes."""
    random = np.random.default_rng(seed)
    mask = random.random(random.integers(3, 40, 2)) < random.uniform(.2, .9)
    if seed % 3 == 1:
        mask = mask.repeat(4, axis=0).repeat(3, axis=1)
    if seed % 3 == 2:
        mask = cv2.GaussianBlur(random.random((90, 120)), (0, 0), 3) > .5
    assert np.array_equal(drawn(polygons_from_mask(mask), mask.shape), mask)
