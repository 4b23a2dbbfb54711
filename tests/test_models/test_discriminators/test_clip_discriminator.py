# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from mmdpad.models.discriminators.clip_discriminator import CLIPDiscriminator
from mmdpad.models.non_finite import NonFiniteError
from mmdpad.registry import MODELS


@pytest.fixture(scope='module')
def module(tiny):
    return CLIPDiscriminator(f'local-dir:{tiny.folder}', None)


@pytest.fixture
def clip(module):
    """As it was built, for each test."""
    module.feature_cache.clear()
    return module


@pytest.fixture
def encoded(clip):
    """Images that its image tower has seen, a number for each time."""
    counts = []
    handle = clip.clip.visual.ln_post.register_forward_hook(
        lambda _, args, out: counts.append(len(out)))
    yield counts
    handle.remove()


def random_images(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (40 + 8 * i, 64 - 4 * i, 3), dtype=np.uint8)
            for i in range(count)]


CAPTIONS = ['a red apple', None, '  ', 'the left tree', 'a red apple']


def test_cosines_are_those_of_open_clip(clip, tiny):
    model, _, preprocess = open_clip.create_model_and_transforms(f'local-dir:{tiny.folder}')
    model.eval()
    images = random_images(2)
    out = clip(images, CAPTIONS)
    with torch.no_grad():
        text = model.encode_text(open_clip.get_tokenizer(f'local-dir:{tiny.folder}')(
            ['the left tree']), normalize=True)
        for row, image in zip(out, images, strict=True):
            feature = model.encode_image(preprocess(Image.fromarray(image))[None], normalize=True)
            assert row[3].item() == pytest.approx((text @ feature.T).item(), abs=1e-6)


def test_unusable_captions_are_data(clip):
    out = clip(random_images(2), CAPTIONS)
    assert out.shape == (2, 5) and out.dtype == torch.float32 and out.device.type == 'cpu'
    assert out.isnan().tolist() == [[False, True, True, False, False]] * 2
    assert out[:, [0, 3, 4]].abs().max() <= 1


@pytest.mark.parametrize('text', ['\ud800', '\x00 b', '<end_of_text>', '&#x110000;', '\u202e', '{'])
def test_no_text_raises(clip, text):
    assert clip(random_images(1), [text]).shape == (1, 1)


def test_nothing_to_compare(clip):
    assert clip([], ['a red apple', None]).shape == (0, 2)
    assert clip(random_images(1), [None, '']).isnan().all()


def test_one_by_one_gives_the_same(clip):
    images = random_images(2)
    together = clip(images, CAPTIONS)
    for p, image in enumerate(images):
        for n, caption in enumerate(CAPTIONS):
            alone = clip([image], [caption])
            torch.testing.assert_close(alone, together[p:p + 1, n:n + 1], equal_nan=True)


def test_the_bits_of_an_image_do_not_depend_on_the_others(clip):
    """A resumed run begins with an empty cache."""
    images = random_images(5)
    alone = [clip([image], CAPTIONS) for image in images]
    clip.feature_cache.clear()
    assert clip(images, CAPTIONS).nan_to_num(2.0).equal(torch.cat(alone).nan_to_num(2.0))


def test_each_image_and_text_is_encoded_once(clip, encoded):
    rows = []
    handle = clip.clip.ln_final.register_forward_hook(lambda _, args, out: rows.append(len(out)))
    first, second = random_images(2)
    clip([first, second, first.copy(), first[:-1]], ['a', 'b', 'a', 'c', None, 'b'])
    handle.remove()
    assert sum(encoded) == 3 and rows == [3]


def test_what_came_before_is_not_encoded_again(clip, encoded):
    first, second, third = random_images(3)
    before = clip([first, second], CAPTIONS)
    after = clip([third, second.copy(), first], ['a dog', *CAPTIONS])
    assert sum(encoded) == 3
    torch.testing.assert_close(after[[2, 1], 1:], before, equal_nan=True)
    assert clip([second], CAPTIONS).shape == (1, 5) and sum(encoded) == 3


def test_a_cache_smaller_than_a_batch_gives_the_same(clip, tiny):
    images = [*random_images(4), *random_images(2)]
    expected = clip(images, CAPTIONS)
    for size in (0, 1):
        small = CLIPDiscriminator(f'local-dir:{tiny.folder}', None, cache_size=size)
        for _ in range(2):
            torch.testing.assert_close(small(images, CAPTIONS), expected, equal_nan=True)
        assert len(small.feature_cache) == size


def test_a_kept_feature_keeps_no_batch(clip):
    clip(random_images(3), ['a'])
    (feature, ) = clip.feature_cache.lookup(random_images(1), None)
    assert feature.untyped_storage().nbytes() == 16 * 4


def test_equal_images_have_exactly_equal_cosines(clip):
    """Rounding must not decide a binary reward where both images are the same."""
    first, other = random_images(2)
    captions = ['a red apple', 'the left tree', 'a red apple', 'a dog']
    out = clip([first, first.copy(), other, first], captions)
    assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[3])
    assert torch.equal(out[:, 0], out[:, 2])
    torch.testing.assert_close(out[2:3, 2:], clip([other], captions[2:]))  # each its own row


def test_a_caption_one_token_too_long_is_invalid(clip):
    """The context has 12 positions, two of them for start and end."""
    fits, long = ' '.join(['red'] * 10), ' '.join(['red'] * 11)
    assert clip.tokens.count(fits) == 12
    cosines = clip(random_images(1), [fits, long, 'x' * 1000])
    assert cosines.isnan().tolist() == [[False, True, True]]


def test_frozen_and_registered(tiny):
    model = MODELS.build(dict(type='CLIPDiscriminator', model_name=f'local-dir:{tiny.folder}',
                              pretrained=None))
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(m.training for m in model.train().modules())


def test_half_precision_is_close(tiny, clip):
    half = CLIPDiscriminator(f'local-dir:{tiny.folder}', None, precision='bf16')
    out, expected = half(random_images(2), CAPTIONS), clip(random_images(2), CAPTIONS)
    torch.testing.assert_close(out, expected, atol=0.02, rtol=0, equal_nan=True)


def run_out(module, most):
    """Lets a part of a model run out of memory with more than so many rows."""
    def limit(_, args):
        if len(args[0]) > most:
            raise torch.OutOfMemoryError('CUDA out of memory')
    return module.register_forward_pre_hook(limit)


@pytest.mark.promise('Training', 'CLIP or SAM runs out of memory',
                     'it retries with half as many at once; with a single one, an error says what '
                     'ran out and what to lower')
def test_out_of_memory(clip, tried):
    whole = clip(random_images(2), ['one', 'the left tree', 'a dog'])
    with run_out(clip.clip.ln_final, 1):
        assert clip(random_images(2), ['one', 'the left tree', 'a dog']).allclose(whole, atol=1e-6)
    clip.feature_cache.clear()
    with run_out(clip.clip.visual.ln_post, 0), pytest.raises(
            torch.OutOfMemoryError, match=r'discriminator \(CLIP\) ran out .*`model.train_cfg'):
        clip(random_images(2), ['one'])
    assert clip(random_images(2), ['one', 'the left tree', 'a dog']).allclose(whole, atol=1e-6)
    tried('torch.OutOfMemoryError in both towers of CLIP')


@pytest.mark.parametrize('what, where', [('an image', 'visual.transformer.resblocks.0.mlp.c_fc'),
                                         ('a caption', 'transformer.resblocks.0.mlp.c_fc')])
def test_features_that_are_not_finite_are_an_error(clip, tiny, what, where):
    """A cosine that is NaN says that a caption cannot be used, and earns nothing."""
    broken = CLIPDiscriminator(f'local-dir:{tiny.folder}', None)
    broken.clip.get_submodule(where).weight.data[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=f'features of {what}, .* `{where}` .*{where}.weight'):
        broken(random_images(2), CAPTIONS)
