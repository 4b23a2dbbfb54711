# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Small random models of the families of discriminators: the published configs with towers of the
same classes, made small."""
import json
from copy import deepcopy

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from mmdpad.models import CLIPDiscriminator
from mmdpad.models.discriminators.text_tower import encode_text

# Family: published config, what is smaller in its vision tower, positions of its text tower.
FAMILIES = {
    'openai': ('ViT-B-32-quickgelu', dict(image_size=64, layers=1, width=32, head_width=16), 77),
    'siglip2': ('ViT-B-16-SigLIP2', dict(image_size=64, timm_model_name='test_vit'), 64),
    'mobileclip': ('MobileCLIP-S1', dict(image_size=64, timm_model_name='fastvit_t8'), 77),
    'mobileclip2': ('MobileCLIP2-S2', dict(image_size=64, timm_model_name='fastvit_t8'), 77),
    'eva02': ('EVA02-B-16', dict(timm_model_name='eva02_tiny_patch14_224'), 77)}
CAPTIONS = ['a red apple', 'left of a blue apple', 'a', 'red ' * 90, 'blue ' * 500]
IMAGES = [np.random.default_rng(seed).integers(0, 256, (48, 40 + seed, 3), dtype=np.uint8)
            for seed in range(2)]


@pytest.fixture(scope='module', params=FAMILIES)
def family(request, tmp_path_factory, word_tokenizer):
    """A family's name and a folder with a model of it."""
    name, vision, _ = FAMILIES[request.param]
    config = deepcopy(open_clip.get_model_config(name))
    config.update(embed_dim=16)
    config['vision_cfg'].update(vision)
    config['text_cfg'].update(width=32, heads=2, layers=2)
    folder = tmp_path_factory.mktemp('family') / request.param
    folder.mkdir()
    if 'hf_tokenizer_name' in config['text_cfg']:
        config['text_cfg']['vocab_size'] = 10
        word_tokenizer.save_pretrained(folder)
    if config['vision_cfg'].get('timm_model_name') == 'test_vit':
        config['embed_dim'] = 64  # its width, which no projection follows
    (folder / 'open_clip_config.json').write_text(json.dumps(dict(model_cfg=config)))
    torch.manual_seed(0)
    model = open_clip.create_model(f'local-dir:{folder}', load_weights=False)
    torch.save(model.state_dict(), folder / 'open_clip_pytorch_model.bin')
    return request.param, f'local-dir:{folder}'


@torch.no_grad()
def test_cosines_are_those_of_open_clip(family):
    name, folder = family
    model, preprocess = open_clip.create_model_from_pretrained(folder)
    tokenizer = open_clip.get_tokenizer(folder)
    model.eval()
    images = model.encode_image(torch.stack([preprocess(Image.fromarray(p)) for p in IMAGES]),
                                normalize=True)
    texts = model.encode_text(tokenizer(CAPTIONS[:3]), normalize=True)
    discriminator = CLIPDiscriminator(folder)
    found = discriminator(IMAGES, CAPTIONS)
    torch.testing.assert_close(found[:, :3], images @ texts.T, atol=1e-5, rtol=0)
    assert found[:, :3].unique().numel() == 6
    assert discriminator.tokens.context_length == FAMILIES[name][2]
    assert found[:, 3:].isnan().all()  # 90 and 500 words, longer than the context
    assert any(isinstance(m, open_clip.transformer.QuickGELU) for m in model.modules()) == (
        name == 'openai')


@torch.no_grad()
def test_texts_are_encoded_as_open_clip_does(family):
    """In one batch and alone, short and of the length of the context."""
    name, folder = family
    model = open_clip.create_model_from_pretrained(folder, return_transform=False).eval()
    tokenizer = open_clip.get_tokenizer(folder)
    for texts in (CAPTIONS[:1], CAPTIONS[:3], CAPTIONS[:4]):
        tokens = tokenizer(texts)
        expected = model.encode_text(tokens, normalize=True)
        got = encode_text(model, tokens)
        if name in ('openai', 'eva02'):  # causal, so cut after the longest text
            torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
        else:
            assert torch.equal(got, expected)


def test_the_activation_shifts_cosines(tiny, tmp_path):
    torch.save(tiny.state, tmp_path / 'plain.pt')
    quick, exact = (CLIPDiscriminator(tiny.name, str(tmp_path / 'plain.pt'), quick_gelu=value)(
        IMAGES, CAPTIONS[:3]) for value in (True, False))
    shift = (quick - exact).abs().max()
    assert 1e-4 < shift < 0.5


@torch.no_grad()
def test_captions_of_248_tokens(tiny, tmp_path):
    """As open_clip scores them with a model of as many positions."""
    torch.manual_seed(2)
    state = dict(tiny.state, positional_embedding=torch.randn(248, 32))
    torch.save(state, tmp_path / 'long.pt')
    captions = ['apple ' * count for count in (5, 246, 247)]
    discriminator = CLIPDiscriminator(tiny.name, str(tmp_path / 'long.pt'), context_length=248)
    found = discriminator(IMAGES, captions)
    model = open_clip.create_model(tiny.name, str(tmp_path / 'long.pt'),
                                   force_context_length=248).eval()
    tokens = open_clip.get_tokenizer(tiny.name, context_length=248)(captions[:2])
    texts = model.encode_text(tokens, normalize=True)
    images = torch.stack([discriminator._preprocess(Image.fromarray(p)) for p in IMAGES])
    images = model.encode_image(images, normalize=True)
    torch.testing.assert_close(found[:, :2], images @ texts.T, atol=1e-5, rtol=0)
    assert found[:, 2].isnan().all()
    assert CLIPDiscriminator(tiny.name, tiny.file)(IMAGES, captions)[:, 1].isnan().all()
