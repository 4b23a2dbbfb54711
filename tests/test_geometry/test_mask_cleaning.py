# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from mmdpad.geometry.mask_cleaning import check_areas, clean_mask


def picture(text):
    return np.array([[pixel == '#' for pixel in row] for row in text.split()])


# A hole of 1 pixel and one of 2; diagonal neighbors do not join what lies outside the mask, but
# what lies in it; a bay at the border is no hole.
MASK = '''
    #######.#
    #.###..##
    ####.####
    ####.####
    ..#######
    .........
    ##.#.....
    ##..#....
'''


@pytest.mark.parametrize('hole, sprinkle, expected', [
    (0, 0, MASK),
    (1, 0, MASK.replace('#.###..##', '#####..##')),
    (2, 0, '''
        #######.#
        #########
        #########
        #########
        ..#######
        .........
        ##.#.....
        ##..#....
    '''),
    (0, 1, MASK),  # the two pixels at the bottom touch at a corner
    (0, 2, MASK.replace('##.#.....', '##.......').replace('##..#....', '##.......')),
    (0, 4, '''
        #######.#
        #.###..##
        ####.####
        ####.####
        ..#######
        .........
        .........
        .........
    '''),
])
def test_by_hand(hole, sprinkle, expected):
    mask = picture(MASK)
    assert np.array_equal(clean_mask(mask, hole, sprinkle), picture(expected))
    assert np.array_equal(mask, picture(MASK)), 'the argument has changed'


def test_holes_come_first_and_the_largest_regions_stay():
    ring = picture('''
        #####
        #...#
        #.#.#
        #...#
        #####
    ''')
    assert clean_mask(ring, 8, 1).all()  # the pixel within is part of the whole
    assert not clean_mask(ring, 7, 1)[2, 2]
    equal = picture('#.# ... ..#')
    assert np.array_equal(clean_mask(equal, 0, 9), picture('#.# ... ..#'))
    two = picture('##. ... ..#')
    assert np.array_equal(clean_mask(two, 0, 9), picture('##. ... ...'))


@pytest.mark.parametrize('value', [False, True])
def test_empty_and_full_masks_stay(value):
    mask = np.full((3, 4), value)
    assert np.array_equal(clean_mask(mask, 100, 100), mask)


def test_areas_are_not_negative():
    check_areas(0, 0)
    with pytest.raises(ValueError, match='`max_sprinkle_area` should be a number of pixels.*-1'):
        check_areas(1, -1)
