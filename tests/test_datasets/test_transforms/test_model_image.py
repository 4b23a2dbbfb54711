# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import numpy as np
import pytest
import torch

from mmdpad.datasets.transforms import ModelImageResize, TargetsFromMask


def targets(mask: np.ndarray, model_shape: tuple[int, int], **options) -> tuple[list, list]:
    results = TargetsFromMask(**options)(
        dict(gt_masks=mask[None], ori_shape=mask.shape, model_shape=model_shape))
    return results['model_boxes'][0].tolist(), results['model_points'][0].tolist()


def test_size_is_width_then_height():
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, 3:] = 255, 128, 0
    results = ModelImageResize((30, 10))(dict(img=image))
    prompt = results['model_img']
    assert prompt.dtype == np.uint8 and prompt.shape == (10, 30, 3)
    assert results['model_shape'] == (10, 30)
    assert prompt[5, 0].tolist() == [0, 0, 0] and prompt[5, 29].tolist() == [255, 128, 0]
    assert results['img'] is image


def test_other_boxes_are_scaled_and_not_rounded():
    # x times 0.5 (6 -> 3), y times 2.5 (4 -> 10).
    results = ModelImageResize((3, 10))(
        dict(img=np.zeros((4, 6, 3), np.uint8), other_boxes=((1, 1, 5, 2), (-2, 0, 6, 4))))
    negatives = results['model_negatives']
    assert negatives.dtype == torch.float32
    assert negatives.tolist() == [[0.5, 2.5, 2.5, 5], [-1, 0, 3, 10]]
    none = ModelImageResize((3, 10))(dict(img=np.zeros((4, 6, 3), np.uint8), other_boxes=()))
    assert none['model_negatives'].shape == (0, 4)


def test_shrinking_averages():
    # Columns of 0 and 255 in turn: without antialiasing the result would be stripes.
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, ::2] = 255
    prompt = ModelImageResize((8, 8))(dict(img=image))['model_img']
    assert np.abs(prompt.astype(int) - 127).max() <= 5


@pytest.mark.parametrize('size', [(840, ), (0, 840), (840., 840), (-1, 5)])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match=r'`size` should be \(width, height\), positive integers'):
        ModelImageResize(size)


def test_targets_in_an_equal_frame_are_the_masks_own():
    mask = np.zeros((10, 20), bool)
    mask[2:5, 5:12] = True
    box, points = targets(mask, (10, 20))
    assert box == [5, 2, 11, 4]
    assert points == [[6, 3], [9, 3]]


def test_each_axis_has_its_own_scale_and_halves_round_up():
    # x times 2.5 (20 -> 50), y times 3 (10 -> 30): 5 -> 12.5 -> 13, 11 -> 27.5 -> 28.
    mask = np.zeros((10, 20), bool)
    mask[2:5, 5:12] = True
    box, points = targets(mask, (30, 50))
    assert box == [13, 6, 28, 12]
    assert points == [[15, 9], [23, 9]]


def test_targets_stay_inside_the_model_image():
    # The last of 2000 columns: 1999 * 0.42 = 839.58, rounded 840, which is no column of 840.
    mask = np.zeros((3, 2000), bool)
    mask[2, 1999] = True
    box, points = targets(mask, (840, 840))
    assert box == [839, 560, 839, 560]
    assert points == [[839, 560]] * 2


def test_an_object_too_thin_for_the_model_image_keeps_its_targets():
    mask = np.zeros((100, 1000), bool)
    mask[10:90, 503] = True
    box, points = targets(mask, (10, 10))
    assert box == [5, 1, 5, 9]
    assert all(x == 5 for x, _ in points)


def test_targets_may_be_exact():
    # Pixels of the model image are 10 wide and high; the mask has columns 107 to 114.
    mask = np.zeros((200, 200), bool)
    mask[42:50, 107:115] = True
    box, points = targets(mask, (20, 20), whole_pixels=False)
    assert box == pytest.approx([10.7, 4.2, 11.4, 4.9])
    assert np.allclose(points, np.array(targets(mask, (200, 200))[1]) / 10)
    assert targets(mask, (20, 20))[0] == [11, 4, 11, 5]
