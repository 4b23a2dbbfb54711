# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch

from mmdpad.geometry.targets import box_from_mask
from mmdpad.models import BoxDecoder
from mmdpad.registry import MODELS

IMAGE = np.zeros((4, 6, 3), np.uint8)


def draw(*boxes):
    masks, scores = BoxDecoder()(IMAGE, torch.tensor(boxes).reshape(-1, 4),
                                 torch.zeros(len(boxes), 2, 2))
    assert masks.dtype == torch.bool and masks.shape == (len(boxes), 4, 6)
    assert scores.tolist() == [1.0] * len(boxes)
    return [[''.join('.#'[pixel] for pixel in row) for row in mask] for mask in masks.int()]


@pytest.mark.parametrize('box, rows', [
    ((2., 1., 4., 2.), '...... ..###. ..###. ......'),
    ((2., 1., 2., 1.), '...... ..#... ...... ......'),
    ((1.5, 0.49, 3.49, 0.5), '..##.. ..##.. ...... ......'),  # 2..3, 0..1
    ((4., 2., 6., 4.), '...... ...... ....## ....##'),  # ends at the image's outer edges
    ((-9., -9., float('inf'), 0.), '###### ...... ...... ......'),
    ((6., 0., 9., 3.), '...... ...... ...... ......'),
    ((-3., 0., -1., 3.), '...... ...... ...... ......'),
    ((4., 2., 2., 1.), '...... ...... ...... ......'),  # ends in the wrong order
])
def test_which_pixels_belong_to_a_box(box, rows):
    assert draw(box) == [rows.split()]


def test_the_tight_box_of_a_rectangle_gives_it_back():
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1:3, 5] = True
    (drawn, ), _ = BoxDecoder()(IMAGE, torch.from_numpy(box_from_mask(mask.numpy()))[None],
                                torch.zeros(1, 2, 2))
    assert torch.equal(drawn, mask)


def test_objects_do_not_mix_and_there_may_be_none():
    assert draw() == []
    first, second = draw((0., 0., 0., 0.), (5., 3., 5., 3.))
    assert first == ['#.....', '......', '......', '......']
    assert second == ['......', '......', '......', '.....#']


def test_registered_and_checked():
    decoder = MODELS.build(dict(type='BoxDecoder'))
    with pytest.raises(ValueError, match='should be numbers'):
        decoder(IMAGE, torch.full((1, 4), torch.nan), torch.zeros(1, 2, 2))
