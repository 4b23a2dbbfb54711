# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import cv2
import numpy as np
import pytest

from mmdpad.geometry.targets import box_from_mask, points_from_mask


def mask_of(height: int, width: int, *pixels: tuple[int, int]) -> np.ndarray:
    """Mask of the given (x, y)."""
    mask = np.zeros((height, width), bool)
    for x, y in pixels:
        mask[y, x] = True
    return mask


def rectangle(height: int, width: int, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[top:bottom + 1, left:right + 1] = True
    return mask


def test_box_ends_are_pixels_of_the_mask():
    box = box_from_mask(mask_of(10, 20, (3, 5), (17, 2)))
    assert box.dtype == np.float32
    assert box.tolist() == [3, 2, 17, 5]


def test_box_of_a_single_pixel_has_no_extent():
    assert box_from_mask(mask_of(10, 20, (19, 9))).tolist() == [19, 9, 19, 9]


def test_points_of_a_disc_and_a_smaller_one():
    canvas = np.zeros((60, 100), np.uint8)
    cv2.circle(canvas, (30, 30), 20, 1, -1)
    cv2.circle(canvas, (80, 25), 10, 1, -1)
    points = points_from_mask(canvas.astype(bool))
    assert points.dtype == np.float32 and points.shape == (2, 2)
    assert points[0].tolist() == [30, 30]
    # Half of the pixels are farther than 15 from (30, 30); of those in the large disc none is
    # deeper than 5, while the small disc's center has depth 10 or more.
    assert points[1].tolist() == [80, 25]


def test_points_of_a_bar_worked_out_by_hand():
    # 3 rows x 7 columns away from the border: depth 2 on the middle row's inner five pixels,
    # the leftmost of them is (6, 5). Distances to it over the 21 pixels have the median
    # sqrt(5): beyond it, and of depth 2, come first (9, 5) and (10, 5).
    points = points_from_mask(rectangle(12, 20, 5, 4, 11, 6))
    assert points.tolist() == [[6, 5], [9, 5]]


def test_ties_go_to_the_topmost_then_the_leftmost():
    points = points_from_mask(mask_of(9, 9, (7, 1), (1, 7), (4, 1), (2, 4)))
    assert points[0].tolist() == [4, 1]
    # Distances to (4, 1): 0, 3, 3.6, 6.7; median 3.3.
    assert points[1].tolist() == [2, 4]


def test_equal_depths_are_equal_despite_float_distances():
    # (22, 14) and (21, 15) are both sqrt(50) deep; OpenCV's float32 makes the second deeper.
    canvas = np.zeros((39, 44), np.uint8)
    cv2.fillPoly(canvas, [np.array([[21, 4], [34, 16], [2, 31]], np.int32)], 1)
    outside = np.argwhere(canvas == 0)[:, ::-1]
    squares = [((outside - point)**2).sum(axis=1).min() for point in ([22, 14], [21, 15])]
    assert squares == [50, 50]
    assert points_from_mask(canvas.astype(bool))[0].tolist() == [22, 14]


def test_the_images_border_is_no_background():
    # Half of a disc cut by the bottom border: the center is on the border, not above it.
    canvas = np.zeros((40, 80), np.uint8)
    cv2.circle(canvas, (41, 39), 25, 1, -1)
    assert points_from_mask(canvas.astype(bool))[0].tolist() == [41, 39]


def test_a_mask_of_the_whole_image_is_measured_from_its_border():
    assert points_from_mask(np.ones((5, 9), bool))[0].tolist() == [2, 2]
    assert points_from_mask(np.ones((1, 1), bool)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize('mask', [
    mask_of(10, 20, (13, 9)),
    mask_of(10, 20, (5, 5), (4, 5), (6, 5), (5, 4), (5, 6)),
], ids=['pixel', 'plus'])
def test_both_points_are_one_where_nothing_is_farther_than_the_median(mask):
    first, second = points_from_mask(mask).tolist()
    assert first == second
    assert mask[int(first[1]), int(first[0])]


def test_points_do_not_depend_on_where_the_mask_lies():
    rng = np.random.default_rng(0)
    for _ in range(50):
        canvas = np.zeros((80, 90), np.uint8)
        cv2.fillPoly(canvas, [rng.integers(10, 60, (5, 2)).astype(np.int32)], 1)
        mask = canvas.astype(bool)
        points = points_from_mask(mask)
        assert mask[points[:, 1].astype(int), points[:, 0].astype(int)].all()
        moved = np.roll(mask, (7, 20), axis=(0, 1))
        np.testing.assert_array_equal(points_from_mask(moved), points + [20, 7])


@pytest.mark.parametrize('function', [box_from_mask, points_from_mask])
@pytest.mark.parametrize(('mask', 'message'), [
    (np.zeros((4, 4), bool), 'should mark at least one pixel, but is empty'),
    (np.ones((4, 4), np.uint8), r'bool array \(H, W\), but got uint8 \(4, 4\)'),
    (np.ones((1, 4, 4), bool), r'bool array \(H, W\), but got bool \(1, 4, 4\)'),
])
def test_unfit_masks_are_refused(function, mask, message):
    with pytest.raises(ValueError, match=message):
        function(mask)
