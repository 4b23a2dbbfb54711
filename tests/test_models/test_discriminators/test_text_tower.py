# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import open_clip
import pytest
import torch

from mmdpad.models.discriminators import text_tower
from mmdpad.models.discriminators.text_tower import encode_text

VISION = dict(image_size=32, layers=1, width=32, head_width=16, patch_size=16)
TEXT = dict(context_length=12, vocab_size=50, width=32, heads=2, layers=2)
# Start, words and end (49, the largest token), then padding.
TOKENS = torch.tensor([[48, 5, 49, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                       [48, 7, 6, 9, 2, 49, 0, 0, 0, 0, 0, 0]])


def build(cls, **text):
    torch.manual_seed(0)
    return cls(16, VISION, dict(TEXT, **text)).eval()


def tokens_of(model):
    """Tokens, padding included, of each batch that the text transformer computes."""
    seen = []
    first = getattr(model, 'text', model).transformer.resblocks[0].ln_1
    first.register_forward_hook(lambda _, args, out: seen.append(args[0][..., 0].numel()))
    return seen


@pytest.fixture(params=['each', 'batch'])
def way(request, monkeypatch):
    """Each text alone, as on a CPU, or all in one batch, as on other devices."""
    if request.param == 'batch':
        monkeypatch.setattr(text_tower, 'are_plain', lambda blocks: False)
    return request.param


@pytest.mark.parametrize('cls', [open_clip.CLIP, open_clip.CustomTextCLIP])
@pytest.mark.parametrize('text, is_cut', [
    ({}, True),
    (dict(pad_id=3), True),
    (dict(ls_init_value=0.5), True),
    (dict(proj_type='none', width=16, heads=1), True),
    (dict(no_causal_mask=True), False),
    (dict(no_causal_mask=True, pool_type='last'), False),
    (dict(pool_type='last'), False),
    (dict(pool_type='eos', eos_id=49), False),
])
@torch.no_grad()
def test_the_same_as_the_full_length(cls, text, is_cut, way):
    model = build(cls, **text)
    expected = model.encode_text(TOKENS, normalize=True)
    seen = tokens_of(model)
    torch.testing.assert_close(encode_text(model, TOKENS), expected, atol=1e-6, rtol=0)
    assert seen == [24 if not is_cut else 12 if way == 'batch' else 9]


@torch.no_grad()
def test_a_class_token_behind_the_text_needs_all_of_it():
    model = build(open_clip.CustomTextCLIP, embed_cls=True, pad_id=0)
    expected = model.encode_text(TOKENS, normalize=True)
    torch.testing.assert_close(encode_text(model, TOKENS), expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_text_that_fills_the_context_and_a_text_that_is_only_an_end(way):
    full = torch.tensor([[48, *range(1, 11), 49]])
    only_end = torch.tensor([[49, *[0] * 11]])
    model = build(open_clip.CLIP)
    seen = tokens_of(model)
    for tokens in (full, only_end):
        torch.testing.assert_close(encode_text(model, tokens),
                                   model.encode_text(tokens, normalize=True), atol=1e-6, rtol=0)
    assert seen == [12, 12, 1, 12]


@torch.no_grad()
def test_the_model_is_left_as_it_was():
    model = build(open_clip.CLIP)
    encode_text(model, TOKENS)
    assert model.positional_embedding.shape == (12, 32) and model.attn_mask.shape == (12, 12)


@torch.no_grad()
def test_texts_in_any_order_and_type(way):
    """The longest first; a half-precision tower rounds to about 1e-3."""
    for cast, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2e-2)):
        model = build(open_clip.CLIP).to(cast)
        tokens = torch.cat([TOKENS.flip(0), TOKENS])
        found = encode_text(model, tokens)
        assert found.dtype == cast
        torch.testing.assert_close(found, model.encode_text(tokens, normalize=True),
                                   atol=tolerance, rtol=0)
