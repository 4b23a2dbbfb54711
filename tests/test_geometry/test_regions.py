# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import math

import numpy as np
import pytest

from mmdpad.geometry.boxes import enlarge, overlaps, union_box
from mmdpad.geometry.regions import crop, mask_out


def gradient() -> np.ndarray:
    """8 rows, 10 columns, no two values equal."""
    return np.arange(8 * 10 * 3, dtype=np.uint8).reshape(8, 10, 3)


def test_around_holds_all_boxes():
    assert union_box([(2, 3, 5, 7), (0, 4, 1, 9)]) == (0, 3, 5, 9)
    assert union_box([(2, 3, 5, 7)]) == (2, 3, 5, 7)
    assert union_box([]) is None


@pytest.mark.parametrize('box, rows, columns', [
    ((2, 3, 5, 7), (3, 7), (2, 5)),
    ((2.9, 3.9, 5.1, 7.1), (3, 8), (2, 6)),  # down and up: every pixel that the box touches
    ((-5, -5, 100, 4), (0, 4), (0, 10)),
    ((3, 3, 3, 3), (3, 4), (3, 4)),  # at least one pixel
    ((50, 60, 70, 80), (7, 8), (9, 10)),  # outside: the nearest pixel
    ((6, 6, 2, 2), (6, 7), (6, 7)),  # inside out
])
def test_crop(box, rows, columns):
    np.testing.assert_array_equal(crop(gradient(), box), gradient()[slice(*rows), slice(*columns)])


def test_crop_refuses_what_is_no_box_or_image():
    with pytest.raises(ValueError, match='finite, but got'):
        crop(gradient(), (0, 0, math.nan, 4))
    with pytest.raises(ValueError, match=r'uint8 arrays \(h, w, 3\), but got float64'):
        crop(gradient().astype(float), (0, 0, 4, 4))


def test_enlarge_moves_every_side_by_a_share_of_its_length():
    assert enlarge((2, 3, 6, 13), 0.25) == (1, 0.5, 7, 15.5)
    assert enlarge((2, 3, 6, 13), 0) == (2, 3, 6, 13)
    assert enlarge((4, 5, 4, 5), 2) == (4, 5, 4, 5)  # one pixel wide, ends inclusive


@pytest.mark.parametrize('box, expected', [
    ((2, 3, 5, 7), True),
    ((-9, -9, 0.5, 0.5), True),
    ((9.5, 7.5, 99, 99), True),
    ((-9, 2, 0, 7), False),  # ends where the image begins
    ((2, 8, 5, 9), False),  # begins where the image ends: 8 rows
    ((9, 2, 10, 7), True),  # but 10 columns
    ((5, 3, 5, 7), False),  # no area
    ((5, 7, 2, 3), False),
])
def test_overlaps(box, expected):
    assert overlaps(box, (8, 10)) is expected


def test_painting_over_leaves_the_mean_colour_and_the_rest():
    image = np.zeros((4, 6, 3), np.uint8)
    image[1:3, 2:5] = 80, 160, 240  # 6 of 24 pixels; their box is (2, 1, 4, 2), ends inclusive
    painted = mask_out(image, (2, 1, 4, 2))
    assert painted[1:3, 2:5].reshape(-1, 3).tolist() == [[20, 40, 60]] * 6
    painted[1:3, 2:5] = 0
    assert not painted.any() and image[1, 2].tolist() == [80, 160, 240]


@pytest.mark.parametrize('box', [(0, 0, 10, 8), (-3, -3, 99, 99), (0, 0, 9, 7)])
def test_painting_over_everything_leaves_the_image_itself(box):
    np.testing.assert_array_equal(mask_out(gradient(), box), gradient())
