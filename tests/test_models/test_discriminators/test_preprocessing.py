# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image

from mmdpad.models.discriminators import preprocessing
from mmdpad.models.discriminators.preprocessing import for_any_shape

SHAPES = [(1, 1), (1, 7), (1, 300), (300, 1), (2, 333), (333, 3), (31, 33), (13, 257), (500, 40),
          (32, 32), (32, 500), (7, 1999), (1999, 7), (240, 320)]


def random_image(height: int, width: int, seed: int = 0) -> Image.Image:
    """Noise of all values, or of the extremes, whose sums leave 0..255 in between."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels if seed % 2 else pixels // 128 * 255)


@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
@pytest.mark.parametrize('size', [32, 224, (24, 48)])
def test_a_part_is_resized_to_pillows_values(monkeypatch, size, interpolation):
    """Every shape goes the way of the long ones, also those that are made smaller."""
    monkeypatch.setattr(preprocessing, '_ROOM', 0)
    whole = image_transform(size, False, resize_mode='shortest', interpolation=interpolation)
    part = for_any_shape(whole)
    for seed, shape in enumerate(SHAPES):
        image = random_image(*shape, seed)
        assert torch.equal(part(image), whole(image)), shape


@pytest.mark.parametrize('shape', [(1, 20), (20, 1), (2, 33)])
def test_a_thin_region_is_not_resized_as_a_whole(shape, monkeypatch):
    transform = for_any_shape(image_transform(224, False))
    monkeypatch.setattr('torchvision.transforms.Resize.forward', lambda *_: pytest.fail('whole'))
    tracemalloc.start()
    assert transform(random_image(*shape)).shape == (3, 224, 224)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


def test_ordinary_regions_are_left_to_open_clip(monkeypatch):
    monkeypatch.setattr(preprocessing, 'resize_part', None)
    whole = image_transform(224, False)
    assert torch.equal(for_any_shape(whole)(random_image(60, 900)), whole(random_image(60, 900)))


@pytest.mark.parametrize('size', [224, (112, 224)])
@pytest.mark.parametrize('mode', ['longest', 'squash'])
def test_a_side_has_at_least_a_pixel(mode, size):
    whole = image_transform(size, False, resize_mode=mode)
    transform = for_any_shape(whole)
    for shape in ((1, 600), (3, 600), (600, 1), (600, 3), (1, 1)):
        assert transform(random_image(*shape)).shape[1:] == ((224, 224) if size == 224 else size)
    assert torch.equal(transform(random_image(50, 70)), whole(random_image(50, 70)))
