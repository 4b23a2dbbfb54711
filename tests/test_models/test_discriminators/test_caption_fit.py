# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import math

import numpy as np
import pytest
import torch

from mmdpad.models.discriminators.caption_fit import caption_fit

IMAGE = np.zeros((40, 80, 3), np.uint8)


def by_size(images, captions):
    """A discriminator: an image's share of the full one; NaN for an empty caption."""
    return torch.tensor([[p.shape[0] * p.shape[1] / 3200 if text else math.nan
                          for text in captions] for p in images])


def test_region_and_image_are_compared():
    assert caption_fit(by_size, IMAGE, (0, 0, 40, 20), 'a dog') == (0.25, 1.0)


def test_a_margin_widens_the_region():
    # 20 x 10 with half of each side added on both ends: 40 x 20.
    assert caption_fit(by_size, IMAGE, (20, 10, 40, 20), 'a dog', 0.5) == (0.25, 1.0)


@pytest.mark.parametrize('box, caption', [
    ((80, 0, 90, 20), 'beside the image'), ((5, 5, 5, 9), 'no area'), ((0, 0, 9, 9), None),
    ((0, 0, math.inf, 9), 'not finite'), ((0, 0, 9, math.nan), 'not finite')])
def test_where_there_is_nothing_to_compare(box, caption):
    assert caption_fit(by_size, IMAGE, box, caption) is None
