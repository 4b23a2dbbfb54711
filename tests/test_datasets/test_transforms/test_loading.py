# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import numpy as np
import pytest

from mmdpad.datasets import DatasetError
from mmdpad.datasets.transforms import LoadInstanceMasks, LoadReasoningImage, LoadReasonSegMask


def test_loads_a_file(tmp_path, write_pair):
    image, _ = write_pair(tmp_path)
    results = LoadReasoningImage()(dict(img_path=str(image)))
    assert results['img'].shape == (10, 20, 3)
    assert results['ori_shape'] == results['img_shape'] == (10, 20)


def test_takes_an_image_in_memory():
    image = np.zeros((4, 6, 3), np.uint8)
    results = LoadReasoningImage()(dict(img=image))
    assert results['img'] is image
    assert results['ori_shape'] == (4, 6)


def test_a_files_content_takes_the_files_place(tmp_path, write_pair):
    image, _ = write_pair(tmp_path)
    results = LoadReasoningImage()(dict(img_bytes=image.read_bytes(), img_path='shard, row 3'))
    assert results['ori_shape'] == (10, 20)
    assert np.array_equal(results['img'], LoadReasoningImage()(dict(img_path=image))['img'])
    assert 'img_bytes' not in results


def test_content_that_is_no_image_is_named():
    with pytest.raises(DatasetError, match='shard, row 3 cannot be decoded as an image'):
        LoadReasoningImage()(dict(img_bytes=b'no image', img_path='shard, row 3'))


@pytest.mark.parametrize(('image', 'got'), [
    (np.zeros((4, 6), np.uint8), r'uint8 \(4, 6\)'),
    (np.zeros((4, 6, 4), np.uint8), r'uint8 \(4, 6, 4\)'),
    (np.zeros((4, 6, 3)), r'float64 \(4, 6, 3\)'),
    (np.zeros((0, 6, 3), np.uint8), r'uint8 \(0, 6, 3\)'),
    ([[1]], 'list'),
])
def test_other_images_in_memory_are_refused(image, got):
    with pytest.raises(ValueError, match=rf'`img` should be a uint8 RGB array .* got {got};'):
        LoadReasoningImage()(dict(img=image))


def test_masks_have_the_images_shape(tmp_path, write_pair):
    polygons = [('target', [[2, 3], [6, 3], [6, 7], [2, 7]]), ('ignore', [[19, 9]])]
    _, path = write_pair(tmp_path, polygons=polygons)
    results = LoadReasonSegMask()(dict(ann_path=str(path), ori_shape=(10, 20)))
    assert results['gt_masks'][0].shape == results['ignore_mask'].shape == (10, 20)
    assert (results['gt_masks'].sum(), results['ignore_mask'].sum()) == (25, 1)


def test_an_empty_mask_is_named(tmp_path, write_pair):
    _, path = write_pair(tmp_path)
    with pytest.raises(DatasetError, match=r'a\.json marks no target pixel .* 1 x 2 pixels'):
        LoadReasonSegMask()(dict(ann_path=str(path), ori_shape=(2, 1)))


SQUARE = [[0, 0, 2, 0, 2, 2, 0, 2]]


def instances(*flags):
    return dict(ori_shape=(4, 6), img_path='a.jpg',
                instances=[dict(mask=SQUARE, ignore_flag=flag) for flag in flags])


@pytest.mark.parametrize('count', [0, 1, 3])
def test_a_mask_for_each_instance(count):
    results = LoadInstanceMasks()(instances(*[0] * count))
    assert results['gt_masks'].shape == (count, 4, 6) and results['gt_masks'].dtype == bool
    assert results['gt_masks'].sum() == 4 * count and 'ignore_mask' not in results


def test_regions_to_ignore_are_those_outside_of_targets():
    results = instances(0, 1)
    results['instances'][1]['mask'] = [[1, 0, 4, 0, 4, 2, 1, 2]]
    results = LoadInstanceMasks()(results)
    assert results['gt_masks'].sum() == results['ignore_mask'].sum() == 4
    assert not (results['gt_masks'][0] & results['ignore_mask']).any()


@pytest.mark.parametrize('segmentation, kind', [
    ([[9, 9, 12, 9, 12, 12]], 'empty mask'), ('?', 'wrong mask'),
    (dict(size=[6, 4], counts=[24]), 'wrong mask')])
def test_a_segmentation_that_cannot_be_used_is_named(segmentation, kind):
    results = instances(0)
    results['instances'][0]['mask'] = segmentation
    with pytest.raises(DatasetError, match='A mask of a.jpg') as caught:
        LoadInstanceMasks()(results)
    assert caught.value.kind == kind
