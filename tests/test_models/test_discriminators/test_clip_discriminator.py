# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from mmdpad.models.discriminators.clip_discriminator import CLIPDiscriminator
from mmdpad.registry import MODELS


@pytest.fixture(scope='module')
def clip(tiny):
    return CLIPDiscriminator(f'local-dir:{tiny.folder}', None)


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (40 + 8 * i, 64 - 4 * i, 3), dtype=np.uint8)
            for i in range(count)]


CAPTIONS = ['a red apple', None, '  ', 'the left tree', 'a red apple']


def test_cosines_are_those_of_open_clip(clip, tiny):
    model, _, preprocess = open_clip.create_model_and_transforms(f'local-dir:{tiny.folder}')
    model.eval()
    images = pictures(2)
    out = clip(images, CAPTIONS)
    with torch.no_grad():
        text = model.encode_text(open_clip.get_tokenizer(f'local-dir:{tiny.folder}')(
            ['the left tree']), normalize=True)
        for row, image in zip(out, images, strict=True):
            feature = model.encode_image(preprocess(Image.fromarray(image))[None], normalize=True)
            assert row[3].item() == pytest.approx((text @ feature.T).item(), abs=1e-6)


def test_unusable_captions_are_data(clip):
    out = clip(pictures(2), CAPTIONS)
    assert out.shape == (2, 5) and out.dtype == torch.float32 and out.device.type == 'cpu'
    assert out.isnan().tolist() == [[False, True, True, False, False]] * 2
    assert out[:, [0, 3, 4]].abs().max() <= 1


@pytest.mark.parametrize('text', ['\ud800', '\x00 b', '<end_of_text>', '&#x110000;', '\u202e', '{'])
def test_no_text_raises(clip, text):
    assert clip(pictures(1), [text]).shape == (1, 1)


def test_nothing_to_compare(clip):
    assert clip([], ['a red apple', None]).shape == (0, 2)
    assert clip(pictures(1), [None, '']).isnan().all()


def test_one_by_one_gives_the_same(clip):
    images = pictures(2)
    together = clip(images, CAPTIONS)
    for p, image in enumerate(images):
        for n, caption in enumerate(CAPTIONS):
            alone = clip([image], [caption])
            torch.testing.assert_close(alone, together[p:p + 1, n:n + 1], equal_nan=True)


def test_each_picture_and_text_is_encoded_once(clip, monkeypatch):
    rows = dict(image=[], text=[])
    encode_image, encode_text = clip.clip.encode_image, clip.clip.encode_text
    monkeypatch.setattr(clip.clip, 'encode_image',
                        lambda x: (rows['image'].append(len(x)), encode_image(x))[1])
    monkeypatch.setattr(clip.clip, 'encode_text',
                        lambda x: (rows['text'].append(len(x)), encode_text(x))[1])
    first, second = pictures(2)
    clip([first, second, first.copy(), first[:-1]], ['a', 'b', 'a', 'c', None, 'b'])
    assert rows == dict(image=[3], text=[3])


def test_equal_pictures_have_exactly_equal_cosines(clip):
    """Rounding must not decide a binary reward where both pictures are the same."""
    first, other = pictures(2)
    captions = ['a red apple', 'the left tree', 'a red apple', 'a dog']
    out = clip([first, first.copy(), other, first], captions)
    assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[3])
    assert torch.equal(out[:, 0], out[:, 2])
    torch.testing.assert_close(out[2:3, 2:], clip([other], captions[2:]))  # each its own row


def test_a_caption_one_token_too_long_is_invalid(clip):
    """The context has 12 positions, two of them for start and end."""
    fits, long = ' '.join(['red'] * 10), ' '.join(['red'] * 11)
    assert clip.tokens.count(fits) == 12
    assert clip(pictures(1), [fits, long, 'x' * 10**6]).isnan().tolist() == [[False, True, True]]


def test_frozen_and_registered(tiny):
    model = MODELS.build(dict(type='CLIPDiscriminator', model_name=f'local-dir:{tiny.folder}',
                              pretrained=None))
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(m.training for m in model.train().modules())


def test_half_precision_is_close(tiny, clip):
    half = CLIPDiscriminator(f'local-dir:{tiny.folder}', None, precision='bf16')
    out, expected = half(pictures(2), CAPTIONS), clip(pictures(2), CAPTIONS)
    torch.testing.assert_close(out, expected, atol=0.02, rtol=0, equal_nan=True)
