# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmdpad.utils.masks import decode_mask, encode_mask, segmentation_rle


def test_coco_form_and_round_trip():
    """Column-major runs 0 0 | 1 1 | 0 1 ...: 3 off, 2 on, 1 off."""
    mask = np.array([[0, 0, 1], [0, 1, 0]], dtype=bool)
    rle = encode_mask(mask)
    assert rle == {'size': [2, 3], 'counts': '321'}
    np.testing.assert_array_equal(decode_mask(json.loads(json.dumps(rle))), mask)


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
