# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)

from mmdpad.models.decoders.sam_decoder import SAMDecoder
from mmdpad.models.non_finite import NonFiniteError
from mmdpad.models.weights import LoadReport
from mmdpad.registry import MODELS

TINY = 'mmdpad-test-tiny'


def tiny_sam(checkpoint=None):
    assert checkpoint is None, 'weights are loaded by the decoder'
    encoder = ImageEncoderViT(
        img_size=64, patch_size=16, embed_dim=16, depth=1, num_heads=2, out_chans=16,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=0)
    prompts = PromptEncoder(embed_dim=16, image_embedding_size=(4, 4), input_image_size=(64, 64),
                            mask_in_chans=4)
    decoder = MaskDecoder(
        transformer_dim=16, num_multimask_outputs=3, iou_head_hidden_dim=16,
        transformer=TwoWayTransformer(depth=1, embedding_dim=16, num_heads=2, mlp_dim=16))
    return Sam(encoder, prompts, decoder).eval()


@pytest.fixture(scope='module', autouse=True)
def registered():
    sam_model_registry[TINY] = tiny_sam
    yield
    del sam_model_registry[TINY]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp('sam') / 'tiny.pth'
    torch.save(tiny_sam().state_dict(), path)
    return str(path)


@pytest.fixture
def decoder(checkpoint):
    return SAMDecoder(TINY, checkpoint)


def scene(height=48, width=80, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


BOXES = torch.tensor([[10., 8., 40., 30.], [30., 5., 79., 47.], [0., 0., 20., 20.]])
POINTS = torch.tensor([[[20., 15.], [30., 25.]], [[50., 20.], [60., 30.]], [[5., 5.], [9., 12.]]])


@pytest.mark.parametrize('size', [(48, 80), (80, 48), (64, 64), (200, 31)])
def test_masks_are_those_of_sam_predictor(decoder, checkpoint, size):
    sam = tiny_sam()
    sam.load_state_dict(torch.load(checkpoint, weights_only=True))
    predictor = SamPredictor(sam)
    image = scene(*size)
    predictor.set_image(image)
    box, points = np.array([3., 4., 25., 29.]), np.array([[8., 9.], [20., 22.]])
    masks, scores, _ = predictor.predict(points, np.ones(2), box)
    got, score = decoder(image, torch.tensor(box)[None], torch.tensor(points)[None])
    assert got.dtype == torch.bool and got.shape == (1, *size)
    np.testing.assert_array_equal(got[0].numpy(), masks[scores.argmax()])
    assert score.item() == scores.max()
    assert got.any() and not got.all(), 'an empty or full mask would make this test easy'


def test_several_objects_are_as_one_by_one(decoder):
    masks, scores = decoder(scene(), BOXES, POINTS)
    assert masks.shape == (3, 48, 80) and scores.shape == (3,)
    for i in range(3):
        mask, score = decoder(scene(), BOXES[i:i + 1], POINTS[i:i + 1])
        torch.testing.assert_close(score[0], scores[i])
        assert (mask[0] == masks[i]).float().mean() > 0.999


def test_no_object(decoder):
    masks, scores = decoder(scene(), torch.zeros(0, 4), torch.zeros(0, 2, 2))
    assert masks.shape == (0, 48, 80) and masks.dtype == torch.bool and scores.shape == (0,)


def test_what_lies_outside_is_clipped(decoder):
    outside = decoder(scene(), torch.tensor([[-20., 8., 400., 30.]]),
                      torch.tensor([[[-5., 15.], [300., 60.]]]))
    inside = decoder(scene(), torch.tensor([[0., 8., 80., 30.]]),
                     torch.tensor([[[0., 15.], [79., 47.]]]))
    assert torch.equal(outside[0], inside[0]) and torch.equal(outside[1], inside[1])
    infinite = decoder(scene(), torch.tensor([[-torch.inf, 8., torch.inf, 30.]]),
                       torch.tensor([[[-torch.inf, 15.], [300., torch.inf]]]))
    assert torch.equal(infinite[0], inside[0])


@pytest.fixture
def encoded(decoder):
    """A number for each image that the encoder has seen."""
    counts = []
    decoder.sam.image_encoder.register_forward_hook(lambda *_: counts.append(1))
    return counts


def test_one_image_is_encoded_once(decoder, encoded):
    image = scene()
    first = decoder(image, BOXES, POINTS)
    again = decoder(image.copy(), BOXES, POINTS)
    assert len(encoded) == 1 and torch.equal(first[0], again[0])
    image[0, 0] = 255 - image[0, 0]  # changed in place: another image
    decoder(image, BOXES, POINTS)
    decoder(scene(seed=1), BOXES, POINTS)
    assert len(encoded) == 3


def test_images_of_different_sizes_alternate(decoder, checkpoint, encoded):
    """Sizes of which each has another frame inside of the encoder."""
    scenes = [scene(48, 80, 1), scene(80, 48, 2), scene(31, 64, 3)]
    expected = [SAMDecoder(TINY, checkpoint)(image, BOXES, POINTS) for image in scenes]
    for turn in (0, 1, 2, 1, 0, 2):
        masks, scores = decoder(scenes[turn].copy(), BOXES, POINTS)
        assert torch.equal(masks, expected[turn][0]) and torch.equal(scores, expected[turn][1])
    assert len(encoded) == 3


@pytest.mark.parametrize('size, count', [(0, 6), (1, 6), (2, 3)])
def test_the_cache_is_bounded(checkpoint, size, count):
    decoder, calls = SAMDecoder(TINY, checkpoint, cache_size=size), []
    decoder.sam.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    for seed in (0, 1, 0, 1, 2, 1):
        decoder(scene(seed=seed), BOXES, POINTS)
        assert len(decoder.feature_cache) <= size
    assert len(calls) == count


def test_other_weights_give_other_masks(decoder):
    image = scene()
    decoder(image, BOXES, POINTS)
    torch.manual_seed(4)
    decoder.load_state_dict({f'sam.{k}': v for k, v in tiny_sam().state_dict().items()})
    other = SAMDecoder(TINY, allow_random=True)
    other.load_state_dict(decoder.state_dict())
    assert torch.equal(decoder(image, BOXES, POINTS)[1], other(image, BOXES, POINTS)[1])


def test_frozen_and_registered(checkpoint):
    decoder = MODELS.build(dict(type='SAMDecoder', model=TINY, checkpoint=checkpoint))
    assert not any(p.requires_grad for p in decoder.parameters())
    assert not any(m.training for m in torch.nn.ModuleList([decoder]).train()[0].modules())
    assert not decoder(scene(), BOXES, POINTS)[1].requires_grad


def test_half_precision_checkpoint_and_safetensors(checkpoint, tmp_path):
    from safetensors.torch import save_file
    state = {k: v.half() for k, v in torch.load(checkpoint, weights_only=True).items()}
    torch.save(dict(model=state), tmp_path / 'half.pth')
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / 'half.safetensors')
    for name in ('half.pth', 'half.safetensors'):
        decoder = SAMDecoder(TINY, str(tmp_path / name))
        for key, value in decoder.sam.state_dict().items():
            assert value.dtype == torch.float32 and torch.equal(value, state[key].float())


def test_the_published_sizes_are_told_apart():
    """Without memory: a state fits the model of its own size and no other's."""
    with torch.device('meta'):
        models = {name: sam_model_registry[name]() for name in ('vit_b', 'vit_l', 'vit_h')}
    for name, model in models.items():
        for other, state in ((other, m.state_dict()) for other, m in models.items()):
            problems = LoadReport.of(model, state, other).problems
            assert (problems == '') == (name == other)
            assert name == other or 'of another shape (image_encoder.pos_embed' in problems


@pytest.mark.slow
def test_a_vit_b_at_full_size(tmp_path):
    torch.manual_seed(0)
    model = sam_model_registry['vit_b']()
    torch.save(model.state_dict(), tmp_path / 'sam_vit_b.pth')
    decoder = SAMDecoder('vit_b', str(tmp_path / 'sam_vit_b.pth'))
    predictor = SamPredictor(model.eval())
    image = scene(480, 640)
    predictor.set_image(image)
    masks, scores, _ = predictor.predict(POINTS[0].numpy(), np.ones(2), BOXES[0].numpy())
    got, score = decoder(image, BOXES[:1], POINTS[:1])
    np.testing.assert_array_equal(got[0].numpy(), masks[scores.argmax()])
    assert score.item() == scores.max()


def test_names_and_files_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="one of .*'vit_b', 'vit_h', 'vit_l'.*but got 'vit_x'"):
        SAMDecoder('vit_x', 'a.pth')
    with pytest.raises(FileNotFoundError, match='a.pth. does not exist. Download a checkpoint'):
        SAMDecoder('vit_h', str(tmp_path / 'a.pth'))
    with pytest.raises(ValueError, match='got None.*allow_random=True'):
        SAMDecoder(TINY)
    assert SAMDecoder(TINY, allow_random=True)(scene(), BOXES, POINTS)[0].shape == (3, 48, 80)


class Code:
    """A pickle that would leave a file behind if it were executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


def test_checkpoints_that_do_not_fit(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    bad = dict(state, extra=torch.zeros(1))
    bad['no_mask_embed'] = bad.pop('prompt_encoder.no_mask_embed.weight')
    bad['mask_decoder.iou_token.weight'] = torch.zeros(2, 16)
    path = tmp_path / 'bad.pth'
    torch.save(bad, path)
    with pytest.raises(ValueError) as caught:
        SAMDecoder(TINY, str(path))
    for part in ('1 missing (prompt_encoder.no_mask_embed.weight)',
                 '2 unexpected (extra, no_mask_embed)',
                 '1 of another shape (mask_decoder.iou_token.weight (2, 16) instead of (1, 16))'):
        assert part in str(caught.value)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match='should map names to tensors, but holds list'):
        SAMDecoder(TINY, str(path))
    for content in (b'', b'<html>', pickle.dumps(Code(str(tmp_path / 'executed')), protocol=2),
                    Path(checkpoint).read_bytes()[:5000]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match='bad.pth.*(cannot be read|could run code)'):
            SAMDecoder(TINY, str(path))
    assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize('image, boxes, points, match', [
    (scene().astype(float), BOXES, POINTS, r'uint8 array \(H, W, 3\), but got float64 \(48, 80, 3'),
    (scene()[..., 0], BOXES, POINTS, r'but got uint8 \(48, 80\)'),
    (scene(), BOXES[:2], POINTS, r'but got \(2, 4\) and \(3, 2, 2\)'),
    (scene(), BOXES * float('nan'), POINTS, 'should be numbers'),
])
def test_arguments_of_a_wrong_kind(decoder, image, boxes, points, match):
    with pytest.raises(ValueError, match=match):
        decoder(image, boxes, points)


@pytest.mark.promise('Training', 'CLIP or SAM runs out of memory',
                     'it retries with half as many at once; with a single one, an error says what '
                     'ran out and what to lower')
def test_out_of_memory(decoder, monkeypatch, tried):
    boxes = torch.tensor([[5., 5, 40, 40], [20, 1, 70, 30], [0, 0, 9, 9]])
    points = boxes.reshape(3, 2, 2) * 0.9 + 1
    masks, scores = decoder(scene(), boxes, points)
    predict, most = decoder._predictor.predict_torch, [1]

    def limited(boxes, **kwargs):
        if len(boxes) > most[0]:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return predict(boxes=boxes, **kwargs)

    monkeypatch.setattr(decoder._predictor, 'predict_torch', limited)
    parted = decoder(scene(), boxes, points)
    assert parted[0].equal(masks) and parted[1].allclose(scores, atol=1e-6)
    most[0] = 0
    with pytest.raises(torch.OutOfMemoryError, match=r'The decoder \(SAMDecoder\) ran out'):
        decoder(scene(), boxes, points)
    tried('in SAM with several objects and with one')


@pytest.mark.parametrize('where', ['image_encoder.blocks.0.mlp.lin1',
                                   'mask_decoder.iou_prediction_head.layers.0'])
def test_what_becomes_nan_is_named(decoder, where):
    boxes, points = torch.tensor([[5., 5., 40., 30.]]), torch.tensor([[[10., 10.]]])
    decoder(scene(), boxes, points)  # the embedding is kept
    decoder.sam.get_submodule(where).weight.data[0, 0] = torch.nan
    with pytest.raises(NonFiniteError,
                       match=f'SAMDecoder.* from `sam.{where}` .*sam.{where}.weight'):
        decoder(scene(seed=1), boxes, points)
