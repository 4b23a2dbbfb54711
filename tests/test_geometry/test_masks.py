# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmdpad.geometry import masks
from mmdpad.geometry.masks import (
    MAX_COORDINATE,
    check_outline,
    check_runs,
    decode_mask,
    encode_mask,
    is_coordinate,
    read_runs,
    segmentation_rle,
)


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
    dict(size=[4, 4], counts=None), dict(size=[4, 4]), dict(size=[4], counts=[4]),
    dict(size=[0, 4], counts=[]), dict(size='44', counts=[16]), {}], ids=str)
def test_what_is_no_rle_is_refused(rle):
    with pytest.raises(ValueError, match='its RLE (should have `size`|is broken)'):
        decode_mask(rle)


@pytest.mark.parametrize('runs', [[], [3, 20], [5], [20, -4], [16.0], [True] * 16, [None], ['16']])
def test_run_lengths_make_up_the_mask(runs):
    check_runs([3, 13], 4, 4)
    with pytest.raises(ValueError, match='broken: the counts should .* add up to 4 x 4 pixels'):
        check_runs(runs, 4, 4)


def test_run_lengths_are_read_from_text():
    """The fourth is the difference to the second; 40 takes two characters, the low 5 bits first."""
    assert read_runs(b'3214') == [3, 2, 1, 6]
    assert read_runs(b'X1') == [40] and read_runs(b'') == []
    for text in (b'X', b'zzz', b'\xff', '\ud800'.encode('utf-8', 'surrogatepass'), b'X' * 9 + b'1'):
        assert read_runs(text) == [-1]


@pytest.mark.parametrize('counts', ['321', b'321', [3, 2, 1]])
def test_run_lengths_of_every_rle_are_checked(counts, monkeypatch):
    rle = dict(size=[2, 3], counts=counts)
    assert decode_mask(rle).sum() == 2
    seen = []
    monkeypatch.setattr(masks, 'check_runs', lambda *arguments: seen.append(arguments))
    decode_mask(rle)
    segmentation_rle(rle, 2, 3)
    assert seen == [([3, 2, 1], 2, 3)] * 2


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
        with pytest.raises(ValueError, match=r'size of the image, \[5, 3\] .*, but has \[3, 5\]'):
            segmentation_rle(segmentation, 5, 3)


@pytest.mark.parametrize('segmentation', [
    None, [], '', 'rle', [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [[1, 2, 3, 4, 5, '6']],
    [1, 2, 3, 4, 5, 6], [None], [[[[[]]]]]], ids=str)
def test_every_other_segmentation_is_refused(segmentation):
    with pytest.raises(ValueError, match='should be an RLE or a list of polygons'):
        segmentation_rle(segmentation, 4, 4)


HOSTILE = pytest.mark.promise(
    'Files', 'Polygons and run lengths that ask for all memory or time',
    'an error before any is taken; dense outlines that objects have are drawn')


@HOSTILE
def test_an_rle_of_a_huge_size_is_not_unpacked(monkeypatch, tried):
    """With bounds of 10 pixels, and a mask of 16."""
    rle = dict(size=[4, 4], counts=[16])
    assert decode_mask(rle).shape == (4, 4)
    monkeypatch.setattr('pycocotools.mask.decode', lambda *_: pytest.fail('unpacked'))
    monkeypatch.setattr(masks, 'MOST_PIXELS', 10)
    with pytest.raises(ValueError, match='its RLE should have at most 10 pixels, but has size'):
        decode_mask(rle)
    segmentation_rle(rle, 4, 4)
    monkeypatch.setattr(masks, 'MOST_IN_A_RUN', 10)
    for read in (decode_mask, lambda rle: segmentation_rle(rle, 4, 4)):
        with pytest.raises(ValueError, match='its RLE should have `size`'):
            read(rle)
    tried('sizes, by bounds that are set low')


@HOSTILE
def test_numbers_that_are_no_coordinates(monkeypatch, tried):
    numbers = (math.nan, math.inf, -math.inf, 1e300, -10**400, 10**400, MAX_COORDINATE + 1)
    assert not any(map(is_coordinate, (*numbers, '1', None, True, [], {})))
    assert all(map(is_coordinate, (0, -0.5, MAX_COORDINATE, -MAX_COORDINATE)))
    monkeypatch.setattr(masks, 'MAX_COORDINATE', 5)
    segmentation_rle([[0, 0, 5, 0, 5, 5]], 10, 10)
    with pytest.raises(ValueError, match='should be an RLE'):
        segmentation_rle([[0, 0, 6, 0, 5, 5]], 10, 10)
    tried('numbers, by themselves')


def zigzag(points: int, width: float, height: float) -> list[float]:
    x, y = np.linspace(0, width, points), np.arange(points) % 2 * height
    return np.stack([x, y], axis=1).reshape(-1).tolist()


@HOSTILE
@pytest.mark.parametrize('polygons, message', [
    ([zigzag(300, 99, 99)], 'at most 256 times .* but one with 300 points does so 297 and'),
    ([zigzag(2500, 99, 2)], 'one row at most 2000 times, but .* and 2500 times'),
    ([[0, 0, 9, 0, 9, 9]] * 1001, 'at most 1000 polygons, but has 1001')],
    ids=['on average', 'in a row', 'polygons'])
def test_a_polygon_that_no_object_has_is_not_drawn(polygons, message, tried):
    with pytest.raises(ValueError, match=message):
        segmentation_rle(polygons, 100, 100)
    tried('outlines of 300 and 2,500 points, 1,001 polygons')


@HOSTILE
def test_a_dense_outline_is_drawn(tried):
    """A spiral of 10^6 points, a tenth of a pixel apart, in 40 turns."""
    turn = np.linspace(0, 40 * 2 * np.pi, 10**6)
    spiral = 500 + turn[:, None] * 1.9 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    assert coco_mask.area(segmentation_rle([spiral.reshape(-1).tolist()], 1000, 1000)) > 10**4
    check_outline(np.zeros((10**5, 2)), 1, 1)
    check_outline(np.array([[3, 5]]), 1, 1)
    tried('a spiral of 10^6 points in 1000 x 1000 pixels')
