# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import gc

import numpy as np
import pytest
import torch

from mmdpad.models import CLIPDiscriminator
from mmdpad.rewards import DiscriminativeReward
from mmdpad.rewards.sharing import (
    build_discriminator,
    discriminator_key,
    shared_pixels,
    to_pixels,
)
from mmdpad.toy import CLIP_WEIGHTS

CLIP = dict(type='CLIPDiscriminator', model_name=CLIP_WEIGHTS, pretrained=None)


@pytest.mark.parametrize('same', [
    dict(CLIP, type='mmdpad.CLIPDiscriminator'), dict(CLIP, type=CLIPDiscriminator),
    dict(CLIP, _scope_='mmdpad'), dict(CLIP, precision='fp32', cache_size=8192)])
def test_configs_of_one_model_have_one_key(same):
    assert discriminator_key(same) == discriminator_key(CLIP)
    assert discriminator_key(dict(same, cache_size=3)) != discriminator_key(CLIP)


def test_terms_with_one_config_have_one_model_as_long_as_they_live():
    first = DiscriminativeReward(CLIP, device='cpu')
    second = DiscriminativeReward(dict(CLIP, type=CLIPDiscriminator), device='cpu', form='margin')
    (model, ), (other, ) = first.discriminators, second.discriminators
    assert model is other and model is build_discriminator(CLIP, 'cpu')
    assert build_discriminator(dict(CLIP, cache_size=2), 'cpu') is not model
    number = id(model.clip.logit_scale)
    kept = model.clip.logit_scale  # so that its id is not taken again
    del model, other, first, second
    gc.collect()
    assert id(build_discriminator(CLIP, 'cpu').clip.logit_scale) != number and kept is not None


def test_what_one_term_has_looked_at_is_known_to_the_other():
    images = [np.full((8, 8, 3), value, np.uint8) for value in (10, 200)]
    first, second = (DiscriminativeReward(CLIP, device='cpu') for _ in range(2))
    (cosines, ) = first.compare(images, ['a red square'])
    second.discriminators[0]._encode_images = None  # it must not be needed
    assert torch.equal(second.compare(images, ['a red square'])[0], cosines)


def test_an_ensemble_prepares_an_image_once_and_says_what_its_members_say():
    others = [dict(CLIP, cache_size=0), dict(CLIP, cache_size=1)]
    ensemble = DiscriminativeReward(others, device='cpu')
    calls = []
    for model in ensemble.discriminators:
        inner = model._preprocess
        model._preprocess = lambda image, inner=inner: calls.append(image.size) or inner(image)
    images = [np.full((8, 6 + i, 3), 40 * i, np.uint8) for i in range(3)]
    found = ensemble.compare(images, ['a red square', None])
    assert len(calls) == 3  # not 6
    alone = build_discriminator(CLIP, 'cpu')(images, ['a red square', None])
    for cosines in found:
        torch.testing.assert_close(cosines, alone, rtol=0, atol=0, equal_nan=True)
    ensemble.compare(images[:1], ['a red square'])
    assert len(calls) == 4  # nothing is kept from call to call


def test_pixels_of_other_preprocessing_are_not_taken():
    image = np.zeros((2, 2, 3), np.uint8)
    with shared_pixels():
        one = to_pixels([image], lambda image: torch.zeros(3, 2, 2), 'a')
        other = to_pixels([image], lambda image: torch.ones(3, 2, 2), 'b')
    assert not one.any() and other.all()
