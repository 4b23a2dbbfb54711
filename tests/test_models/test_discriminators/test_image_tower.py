# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import open_clip
import pytest
import torch

from mmdpad.models.discriminators import image_tower
from mmdpad.models.discriminators.image_tower import encode_images

VISION = dict(image_size=40, layers=2, width=32, head_width=16, patch_size=16)
TEXT = dict(context_length=12, vocab_size=50, width=32, heads=2, layers=1)


def build(cast=torch.float32, **vision):
    torch.manual_seed(0)
    model = open_clip.CLIP(16, dict(VISION, **vision), TEXT).eval().to(cast)
    pixels = torch.randn(3, 3, 40, 40).to(cast)  # 2 x 2 patches; 8 pixels at the border are unused
    return model, pixels


@pytest.fixture
def blocks(monkeypatch):
    """How many tokens of the blocks' outputs are computed."""
    kept, original = [], image_tower.run_block
    monkeypatch.setattr(image_tower, 'run_block', lambda *args, **options: (
        kept.append(original(*args, **options)), kept[-1])[1])
    return kept


@pytest.mark.parametrize('vision, is_plain', [
    ({}, True),
    (dict(ls_init_value=0.5), True),
    (dict(no_ln_pre=True, pos_embed_type='sin_cos_2d'), True),
    (dict(final_ln_after_pool=True), True),
    (dict(pool_type='avg'), False),
    (dict(attentional_pool=True, attn_pooler_heads=2), False),
    (dict(block_type='custom'), False),
])
@torch.no_grad()
def test_the_same_as_open_clip(blocks, vision, is_plain):
    model, pixels = build(**vision)
    torch.testing.assert_close(encode_images(model, pixels), model.encode_image(pixels),
                               atol=1e-6, rtol=1e-5)
    # Two blocks of three images: all tokens, then those that the results depend on.
    assert [len(tokens) for tokens in blocks] == ([5, 5, 5, 1, 1, 1] if is_plain else [])


@torch.no_grad()
def test_in_bfloat16():
    model, pixels = build(torch.bfloat16)
    found, expected = encode_images(model, pixels), model.encode_image(pixels)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


@pytest.mark.parametrize('vision', [{}, dict(pool_type='avg')])
@torch.no_grad()
def test_the_bits_of_an_image_do_not_depend_on_the_others(vision):
    model, pixels = build(**vision)
    together = encode_images(model, pixels)
    for image, expected in zip(pixels, together, strict=True):
        assert encode_images(model, image[None])[0].equal(expected)
