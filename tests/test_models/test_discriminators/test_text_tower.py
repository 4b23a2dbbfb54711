# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import open_clip
import pytest
import torch

from mmdpad.models.discriminators.text_tower import encode_text

VISION = dict(image_size=32, layers=1, width=32, head_width=16, patch_size=16)
TEXT = dict(context_length=12, vocab_size=50, width=32, heads=2, layers=2)
# Start, words and end (49, the largest token), then padding.
TOKENS = torch.tensor([[48, 5, 49, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                       [48, 7, 6, 9, 2, 49, 0, 0, 0, 0, 0, 0]])


def build(cls, **text):
    torch.manual_seed(0)
    return cls(16, VISION, dict(TEXT, **text)).eval()


def lengths(model):
    """Positions of each batch that the text transformer sees."""
    seen = []
    transformer = getattr(model, 'text', model).transformer
    transformer.register_forward_hook(lambda _, args, out: seen.append(args[0].shape[1]))
    return seen


@pytest.mark.parametrize('cls', [open_clip.CLIP, open_clip.CustomTextCLIP])
@pytest.mark.parametrize('text, length', [
    ({}, 6),
    (dict(pad_id=3), 6),
    (dict(no_causal_mask=True), 12),
    (dict(no_causal_mask=True, pool_type='last'), 12),
    (dict(pool_type='last'), 12),
    (dict(pool_type='eos', eos_id=49), 12),
])
@torch.no_grad()
def test_the_same_as_the_full_length(cls, text, length):
    model = build(cls, **text)
    expected = model.encode_text(TOKENS, normalize=True)
    seen = lengths(model)
    torch.testing.assert_close(encode_text(model, TOKENS), expected, atol=1e-6, rtol=0)
    assert seen == [length]


@torch.no_grad()
def test_a_class_token_behind_the_text_needs_all_of_it():
    model = build(open_clip.CustomTextCLIP, embed_cls=True, pad_id=0)
    expected = model.encode_text(TOKENS, normalize=True)
    torch.testing.assert_close(encode_text(model, TOKENS), expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_text_that_fills_the_context_and_a_text_that_is_only_an_end():
    full = torch.tensor([[48, *range(1, 11), 49]])
    only_end = torch.tensor([[49, *[0] * 11]])
    model = build(open_clip.CLIP)
    seen = lengths(model)
    for tokens in (full, only_end):
        torch.testing.assert_close(encode_text(model, tokens),
                                   model.encode_text(tokens, normalize=True), atol=1e-6, rtol=0)
    assert seen == [12, 12, 1, 12]


@torch.no_grad()
def test_the_model_is_left_as_it_was():
    model = build(open_clip.CLIP)
    encode_text(model, TOKENS)
    assert model.positional_embedding.shape == (12, 32) and model.attn_mask.shape == (12, 12)
