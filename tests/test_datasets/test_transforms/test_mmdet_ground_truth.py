# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmdpad.datasets.transforms.mmdet_ground_truth import mmdet_ground_truth


def test_the_union_and_each_object():
    masks = np.zeros((2, 3, 5), bool)
    masks[0, 0, :2] = masks[1, 0:2, 1] = True
    truth = mmdet_ground_truth(masks, np.array([[0, 0, 1, 0], [1, 0, 1, 1]], np.float32))
    assert truth.keys() == {'gt_masks', 'instances'}
    union = truth['gt_masks']
    assert (union.height, union.width) == (3, 5)
    assert union.masks.tolist() == [[[1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]]
    for instance, box, mask in zip(truth['instances'], ([0, 0, 1, 0], [1, 0, 1, 1]), masks,
                                   strict=True):
        assert instance['bbox'] == box
        assert instance['bbox_label'] == instance['ignore_flag'] == 0
        assert coco_mask.decode(instance['mask']).astype(bool).tolist() == mask.tolist()


def test_no_object_at_all():
    truth = mmdet_ground_truth(np.zeros((0, 3, 5), bool), np.zeros((0, 4), np.float32))
    assert truth['instances'] == []
    assert truth['gt_masks'].masks.shape == (1, 3, 5) and not truth['gt_masks'].masks.any()


@pytest.mark.parametrize('masks, boxes', [
    ((3, 5), (1, 4)), ((2, 3, 5), (1, 4)), ((1, 3, 5), (4, ))])
def test_shapes_that_do_not_fit(masks, boxes):
    with pytest.raises(ValueError, match=r'`masks` should be \(K, H, W\), `boxes` \(K, 4\) and'):
        mmdet_ground_truth(np.zeros(masks, bool), np.zeros(boxes))
