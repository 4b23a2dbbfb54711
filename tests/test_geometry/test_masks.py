# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
import math
import tracemalloc

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmdpad.geometry.masks import check_outline, decode_mask, encode_mask, segmentation_rle


def test_coco_form_and_round_trip():
    """Column-major runs 0 0 | 1 1 | 0 1 ...: 3 off, 2 on, 1 off."""
    mask = np.array([[0, 0, 1], [0, 1, 0]], dtype=bool)
    rle = encode_mask(mask)
    assert rle == {'size': [2, 3], 'counts': '321'}
    np.testing.assert_array_equal(decode_mask(json.loads(json.dumps(rle))), mask)


@pytest.mark.parametrize('mask', [
    np.array([[0, 1, 2]], np.uint8), np.array([[0, 0.5]]), np.zeros((1, 2, 2), bool)])
def test_what_is_not_bool_is_refused(mask):
    """pycocotools starts a run at every change of value, so 1, 2 would be object, background."""
    with pytest.raises(ValueError, match=r'should be a bool array \(H, W\), but got '):
        encode_mask(mask)


def test_no_pixel_and_every_pixel():
    for mask in (np.zeros((3, 5), bool), np.ones((3, 5), bool)):
        np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)


def test_every_kind_of_counts_is_read():
    rng = np.random.default_rng(0)
    for density in (0.02, 0.5, 0.98):
        mask = rng.random((37, 61)) < density
        rle = encode_mask(mask)
        flat = mask.T.flatten()
        edges = np.flatnonzero(np.diff(flat)) + 1
        runs = np.diff([0, *edges, flat.size]).tolist()
        for counts in (rle['counts'].encode(), [0, *runs] if flat[0] else runs):
            np.testing.assert_array_equal(decode_mask(dict(size=[37, 61], counts=counts)), mask)


@pytest.mark.parametrize('rle', [
    dict(size=[4, 4], counts=''), dict(size=[4, 4], counts='22'), dict(size=[4, 4], counts='zzz'),
    dict(size=[4, 4], counts='o' * 10**6), dict(size=[4, 4], counts='\xff'),
    dict(size=[4, 4], counts='\ud800'),
    dict(size=[4, 4], counts=[3, 20]), dict(size=[4, 4], counts=[20, -4]),
    dict(size=[4, 4], counts=[16.0]), dict(size=[4, 4], counts=None), dict(size=[4, 4]),
    dict(size=[4], counts=[4]), dict(size=[0, 4], counts=[]), dict(size='44', counts=[16]),
    dict(size=[2**70, 1], counts=[2**70]), {},
], ids=str)
def test_a_broken_rle_is_refused_and_never_read(rle):
    with pytest.raises(ValueError, match='its RLE (should have `size`|is broken)'):
        decode_mask(rle)


def drawn(*segmentation):
    return decode_mask(segmentation_rle(*segmentation))


def test_polygons_cover_their_union():
    mask = drawn([[0, 0, 4, 0, 4, 2, 0, 2], [4, 2, 6, 2, 6, 3, 4, 3]], 4, 6)
    assert mask.dtype == bool and mask.shape == (4, 6)
    assert mask.astype(int).tolist() == [
        [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]]
    assert not drawn([[10, 10, 14, 10, 14, 12]], 4, 6).any()


def test_an_rle_has_to_have_the_size_of_its_image():
    rle = coco_mask.encode(np.asfortranarray(np.eye(3, 5, dtype=np.uint8)))
    for segmentation in (rle, [rle]):
        assert drawn(segmentation, 3, 5).sum() == 3
        with pytest.raises(ValueError, match=r'size \[3, 5\] in place of the image.s \[5, 3\]'):
            segmentation_rle(segmentation, 5, 3)


@pytest.mark.parametrize('segmentation', [
    None, [], '', 'rle', [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [[1, 2, 3, 4, 5, '6']],
    [[1, 2, 3, 4, 5, float('nan')]], [[1, 2, 3, 4, 5, 1e30]], [1, 2, 3, 4, 5, 6], [None],
], ids=str)
def test_every_other_segmentation_is_refused(segmentation):
    with pytest.raises(ValueError, match='neither an RLE nor a list of polygons'):
        segmentation_rle(segmentation, 4, 4)


HOSTILE = pytest.mark.promise(
    'Files', 'Polygons and run lengths that ask for all memory or time',
    'an error before any is taken; dense outlines that objects have are drawn')
BIG = 10**9


@HOSTILE
@pytest.mark.parametrize('rle', [
    dict(size=[BIG, 1], counts=[0, BIG]), dict(size=[31623, 31623], counts=[31623**2]),
    dict(size=[60000, 60000], counts=[60000**2]), dict(size=[BIG, BIG], counts=[BIG**2]),
    dict(size=[10**400, 1], counts=[10**400])])
def test_an_rle_of_a_huge_size_is_not_unpacked(rle, tried):
    tracemalloc.start()
    with pytest.raises(ValueError, match='its RLE should have'):
        decode_mask(rle)
    with pytest.raises(ValueError, match='its RLE (has size|should have `size`)'):
        segmentation_rle(rle, 10, 20)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    tried('sizes of 10^9 to 10^400 pixels')


def zigzag(points: int, width: float, height: float) -> list[float]:
    x, y = np.linspace(0, width, points), np.arange(points) % 2 * height
    return np.stack([x, y], axis=1).reshape(-1).tolist()


@HOSTILE
@pytest.mark.parametrize('polygons, message', [
    ([zigzag(10**6, 99, 99)], 'does so 990000 and'), ([zigzag(5000, 99, 2)], 'and 5000 times'),
    ([[0, 0, 999999, 999999] * 100], 'does so 1999998 and'),
    ([[0, 0, 9, 0, 9, 9]] * 1001, 'at most 1000 polygons, but has 1001'),
    ([[0, 0, 1e300, 0, 9, 9]], 'neither an RLE'), ([[0, 0, 10**400, 0, 9, 9]], 'neither an RLE'),
    ([[0, 0, math.nan, 0, 9, 9]], 'neither an RLE'), ([[[[[]]]]], 'neither an RLE')],
    ids=range(8))
def test_a_polygon_that_no_object_has_is_not_drawn(polygons, message, tried):
    with pytest.raises(ValueError, match=message):
        segmentation_rle(polygons, 100, 100)
    tried('10^6 points, coordinates of 10^6, 10^300, 10^400 and NaN, 1,001 polygons')


@HOSTILE
def test_a_dense_outline_is_drawn(tried):
    """A spiral of 10^6 points, a tenth of a pixel apart, in 40 turns."""
    turn = np.linspace(0, 40 * 2 * np.pi, 10**6)
    spiral = 500 + turn[:, None] * 1.9 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    assert coco_mask.area(segmentation_rle([spiral.reshape(-1).tolist()], 1000, 1000)) > 10**4
    check_outline(np.zeros((10**5, 2)), 1, 1)
    check_outline(np.array([[3, 5]]), 1, 1)
    tried('a spiral of 10^6 points in 1000 x 1000 pixels')
