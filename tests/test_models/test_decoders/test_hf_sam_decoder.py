# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The decoders of transformers' SAM family: what holds for each, on tiny random weights."""
import copy
import json
import shutil

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Sam2VideoModel, Sam3VideoModel

from mmdpad.geometry.mask_cleaning import clean_mask
from mmdpad.models import HFSAMDecoder, SAM2Decoder, SAM3Decoder, SAMHQDecoder
from mmdpad.prompts import format_objects_response
from mmdpad.registry import MODELS
from mmdpad.toy.sam_folders import SAM_FOLDERS

# `model_type` of a folder -> the registered decoder that reads it.
KINDS = {model_type: cls for cls in MODELS.module_dict.values()
         if isinstance(cls, type) and issubclass(cls, HFSAMDecoder) and not cls.reads_text
         for model_type in cls.model_types}
BOXES = torch.tensor([[10., 8., 40., 30.], [30.3, 5., 79., 47.], [0., 0., 20., 20.]])
POINTS = torch.tensor([[[20., 15.], [30., 25.7]], [[50., 20.], [60.1, 30.]], [[5., 5.], [9., 12.]]])


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('sam')
    return {kind: SAM_FOLDERS[kind](root / kind) for kind in KINDS}


@pytest.fixture(scope='module', params=KINDS)
def decoder(request, folders):
    """Read once for each kind of folder; its cache is empty at the start of a test."""
    return KINDS[request.param](folders[request.param])


@pytest.fixture(autouse=True)
def forget(request):
    if 'decoder' in request.fixturenames:
        request.getfixturevalue('decoder').feature_cache.clear()


def scene(height=48, width=80, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@torch.no_grad()
def by_transformers(decoder, image, boxes, points=None, negatives=0):
    """Masks (N, H, W) and scores (N,) as the documentation of transformers makes them; the last
    points may be negative."""
    prompts = {} if points is None else dict(
        input_points=[points.tolist()],
        input_labels=[[[1] * (points.shape[1] - negatives) + [0] * negatives] * len(points)])
    inputs = decoder.processor(images=Image.fromarray(image), input_boxes=[boxes.tolist()],
                               **prompts, return_tensors='pt')
    outputs = decoder.sam(**inputs)
    sizes = [inputs[name] for name in ('original_sizes', 'reshaped_input_sizes') if name in inputs]
    masks = decoder.processor.post_process_masks(outputs.pred_masks, *sizes)[0]
    scores, best = outputs.iou_scores[0].max(dim=1)
    return masks[torch.arange(len(best)), best], scores


@pytest.mark.parametrize('size', [(48, 80), (80, 48), (64, 64), (200, 31)])
@pytest.mark.parametrize('count', [1, 3])
def test_masks_are_those_of_transformers(decoder, size, count):
    image = scene(*size)
    limit = torch.tensor([size[1], size[0]])
    boxes = BOXES[:count].minimum(limit.repeat(2))
    points = POINTS[:count].minimum(limit - 1)
    expected, scores = by_transformers(decoder, image, boxes, points)
    for _ in range(2):  # the second from the cache
        got, score = decoder(image, boxes, points)
        assert got.dtype == torch.bool and got.shape == (count, *size)
        assert score.dtype == torch.float32
        assert torch.equal(got, expected) and torch.equal(score, scores)
    assert len(decoder.feature_cache) == 1
    for mask in got:
        assert mask.any() and not mask.all(), 'an empty or full mask would make this test easy'


def test_negative_points_have_label_0(decoder):
    image, negatives = scene(), torch.tensor([[[38., 28.]], [[31., 46.]]])
    together = torch.cat([POINTS[:2], negatives], dim=1)
    masks, scores = decoder(image, BOXES, POINTS, [*negatives, torch.zeros(0, 2)])
    expected, expected_scores = by_transformers(decoder, image, BOXES[:2], together, negatives=1)
    assert torch.equal(masks[:2], expected) and torch.equal(scores[:2], expected_scores)
    positive, _ = by_transformers(decoder, image, BOXES[:2], together)
    assert not torch.equal(positive, expected)
    alone, _ = decoder(image, BOXES[2:], POINTS[2:])
    assert torch.equal(masks[2:], alone)


def test_boxes_without_points(decoder):
    expected, expected_scores = by_transformers(decoder, scene(), BOXES)
    masks, scores = decoder(scene(), BOXES, torch.zeros(3, 0, 2))
    assert torch.equal(masks, expected) and torch.equal(scores, expected_scores)
    assert not torch.equal(masks, decoder(scene(), BOXES, POINTS)[0])


def test_prompts_and_weights_matter(decoder):
    image = scene()
    masks, scores = decoder(image, BOXES, POINTS)
    other, _ = decoder(image, BOXES, POINTS.flip(0))
    assert not torch.equal(masks, other) and len(set(scores.tolist())) == 3
    assert not torch.equal(decoder(scene(seed=1), BOXES, POINTS)[0], masks)


def test_several_objects_are_as_one_by_one(decoder):
    masks, scores = decoder(scene(), BOXES, POINTS)
    for i in range(3):
        mask, score = decoder(scene(), BOXES[i:i + 1], POINTS[i:i + 1])
        torch.testing.assert_close(score[0], scores[i])
        assert (mask[0] == masks[i]).float().mean() > 0.999


def test_no_object_and_what_lies_outside(decoder):
    masks, scores = decoder(scene(), torch.zeros(0, 4), torch.zeros(0, 2, 2))
    assert masks.shape == (0, 48, 80) and masks.dtype == torch.bool and scores.shape == (0,)
    outside = decoder(scene(), torch.tensor([[-torch.inf, 8., 400., 30.]]),
                      torch.tensor([[[-5., 15.], [300., torch.inf]]]))
    inside = decoder(scene(), torch.tensor([[0., 8., 80., 30.]]),
                     torch.tensor([[[0., 15.], [79., 47.]]]))
    assert torch.equal(outside[0], inside[0]) and torch.equal(outside[1], inside[1])
    with pytest.raises(ValueError, match='should be numbers'):
        decoder(scene(), BOXES * float('nan'), POINTS)
    with pytest.raises(ValueError, match='uint8 array'):
        decoder(scene() / 255, BOXES, POINTS)


def test_an_image_with_few_rows_is_not_taken_for_channels_first(decoder):
    image = scene(3, 40)
    boxes, points = torch.tensor([[2., 0., 20., 2.]]), torch.tensor([[[4., 1.], [9., 1.]]])
    got, scores = decoder(image, boxes, points)
    expected, expected_scores = by_transformers(decoder, image, boxes, points)
    assert got.shape == (1, 3, 40)
    assert torch.equal(got, expected) and torch.equal(scores, expected_scores)


@pytest.mark.parametrize('size', [(1, 1), (1, 300), (300, 2)])
def test_an_image_may_be_as_thin_as_one_likes(decoder, size):
    masks, scores = decoder(scene(*size), BOXES, POINTS)
    assert masks.shape == (3, *size) and scores.isfinite().all()


def test_one_image_is_encoded_once_and_sizes_alternate(folders):
    decoder, calls = SAM2Decoder(folders['sam2'], cache_size=2), []
    decoder.sam.vision_encoder.register_forward_hook(lambda *_: calls.append(1))
    scenes = [scene(48, 80, 1), scene(80, 48, 2), scene(31, 64, 3)]
    expected = [decoder(image, BOXES, POINTS)[0] for image in scenes]
    assert len(calls) == 3 and len(decoder.feature_cache) == 2
    for turn in (2, 1, 2, 1):
        assert torch.equal(decoder(scenes[turn].copy(), BOXES, POINTS)[0], expected[turn])
    assert len(calls) == 3
    assert torch.equal(decoder(scenes[0], BOXES, POINTS)[0], expected[0]) and len(calls) == 4


def test_bfloat16_is_near_and_only_the_encoders(folders):
    exact, fast = (SAM2Decoder(folders['sam2'], dtype=dtype) for dtype in ('float32', 'bfloat16'))
    assert all(p.dtype == torch.float32 for p in fast.parameters())
    masks, scores = exact(scene(), BOXES, POINTS)
    near, near_scores = fast(scene(), BOXES, POINTS)
    assert not torch.equal(near_scores, scores)
    torch.testing.assert_close(near_scores, scores, atol=0.02, rtol=0)
    assert (near == masks).float().mean() > 0.9
    with pytest.raises(ValueError, match="'float32', 'bfloat16'.*but got 'float16'"):
        SAM2Decoder(folders['sam2'], dtype='float16')


@pytest.mark.parametrize('kind', KINDS)
def test_a_loop_with_fp16_changes_nothing(folders, kind):
    decoder = KINDS[kind](folders[kind], cache_size=0)
    expected = decoder(scene(), BOXES, POINTS)
    with torch.autocast('cpu', torch.bfloat16):
        assert all(map(torch.equal, decoder(scene(), BOXES, POINTS), expected))


@pytest.mark.parametrize('kind', KINDS)
def test_masks_are_cleaned_on_request(folders, kind):
    decoder = KINDS[kind](folders[kind], max_hole_area=20, max_sprinkle_area=30)
    plain, scores = KINDS[kind](folders[kind])(scene(), BOXES, POINTS)
    cleaned, same = decoder(scene(), BOXES, POINTS)
    assert torch.equal(scores, same) and not torch.equal(cleaned, plain)
    for mask, before in zip(cleaned.numpy(), plain.numpy(), strict=True):
        assert np.array_equal(mask, clean_mask(before, 20, 30))
    with pytest.raises(ValueError, match='`max_hole_area` should be a number of pixels.*got -1'):
        KINDS[kind](folders[kind], max_hole_area=-1)


@pytest.mark.parametrize('kind', ['sam2', 'sam3_tracker', 'sam_hq'])
def test_a_batch_of_answers_is_drawn_as_one_by_one(folders, kind, tiny_config):
    cls = KINDS[kind]
    decoder = dict(type=cls.__name__, pretrained=folders[kind])
    model = MODELS.build(
        dict(tiny_config.model, decoder=decoder, several_objects=True)).eval()
    batch = next(iter(Runner.build_dataloader(dict(tiny_config.test_dataloader, batch_size=2))))
    objects = [((28, 56, 84, 112), [(56, 84)]), ((0, 0, 56, 56), [(28, 28)])]
    for sample, answered in zip(batch['data_samples'], (objects, objects[:1]), strict=True):
        sample.cached_response = (format_objects_response('so', answered, 'it'), False)
    alone = cls(folders[kind], cache_size=0)
    samples = model.test_step(copy.deepcopy(batch))
    for sample, image, count in zip(samples, batch['inputs']['image'], (2, 1), strict=True):
        found = sample.pred_instances
        assert len(found) == count
        masks, scores = alone(image.permute(1, 2, 0).numpy(), found.bboxes, found.points)
        assert torch.equal(found.masks, masks) and torch.equal(found.scores, scores)


def test_frozen_and_registered(folders):
    for kind, cls in KINDS.items():
        decoder = MODELS.build(dict(type=cls.__name__, pretrained=folders[kind]))
        assert not any(p.requires_grad for p in decoder.parameters())
        assert not any(m.training for m in torch.nn.ModuleList([decoder]).train()[0].modules())
        assert decoder.variant == kind


@pytest.mark.parametrize('kind, whole', [('sam2_video', Sam2VideoModel),
                                         ('sam3_video', Sam3VideoModel)])
def test_the_published_folders_hold_more_than_is_taken(folders, kind, whole):
    """Every weight of the image model comes from the file; what stays there is the memory and, of
    SAM 3, the detector and the level of the neck that the tracker does not use."""
    decoder = KINDS[kind](folders[kind])
    stored = load_file(f'{folders[kind]}/model.safetensors')
    whole.from_pretrained(folders[kind])  # the folder is one of the whole model
    places = {'vision_encoder.backbone.': 'detector_model.vision_encoder.backbone.',
              'vision_encoder.neck.': 'tracker_neck.', '': 'tracker_model.'}
    for name, value in decoder.sam.state_dict().items():
        if kind == 'sam3_video':
            prefix = next(prefix for prefix in places if name.startswith(prefix))
            name = places[prefix] + name.removeprefix(prefix)
        assert torch.equal(stored.pop(name), value)
    left = {name.removeprefix('tracker_model.').split('.')[0] for name in stored}
    memory = {
        'memory_attention', 'memory_encoder', 'memory_temporal_positional_encoding',
        'mask_downsample', 'object_pointer_proj', 'temporal_positional_encoding_projection_layer',
        'no_memory_positional_encoding', 'no_object_pointer',
        'occlusion_spatial_embedding_parameter'}
    assert left == memory | ({'detector_model', 'tracker_neck'} if kind == 'sam3_video' else set())
    assert all(name.startswith('tracker_neck.fpn_layers.3.')
               for name in stored if name.startswith('tracker_neck'))


@pytest.mark.parametrize('kind', ['sam2_video', 'sam3_video', 'sam_hq'])
def test_the_files_of_the_published_folders(folders, kind, tmp_path):
    """transformers 4 wrote them: settings of images in a file of their own, by an older name."""
    folder = shutil.copytree(folders[kind], tmp_path / kind)
    settings = json.loads((folder / 'processor_config.json').read_text())
    images = settings.pop('image_processor')
    if kind == 'sam_hq':
        (folder / 'processor_config.json').unlink()
    else:
        images['image_processor_type'] += 'Fast'
        video = settings.pop('video_processor', None)
        (folder / 'video_preprocessor_config.json').write_text(json.dumps(video or {}))
        (folder / 'processor_config.json').write_text(json.dumps(settings))
    (folder / 'preprocessor_config.json').write_text(json.dumps(images))
    one, other = (KINDS[kind](str(path)) for path in (folders[kind], folder))
    assert torch.equal(one(scene(), BOXES, POINTS)[0], other(scene(), BOXES, POINTS)[0])


@pytest.mark.parametrize('kind', KINDS)
def test_weights_that_do_not_fit(folders, kind, tmp_path):
    shutil.copytree(folders[kind], tmp_path / kind)
    file = tmp_path / kind / 'model.safetensors'
    state = load_file(file)
    token = next(name for name in state if name.endswith('mask_decoder.iou_token.weight'))
    name = token.replace('iou_token', 'new_token')
    for change, problem in (
            (dict(state, **{name: torch.zeros(1)}), '1 unexpected .*new_token'),
            ({k: v for k, v in state.items() if k != token}, '1 missing .*iou_token'),
            (dict(state, **{token: torch.zeros(2, 16)}), r'1 of another shape .*\(2, 16\) in')):
        save_file(change, file, metadata=dict(format='pt'))
        with pytest.raises(ValueError, match=f'do not fit the model: {problem}'):
            KINDS[kind](str(tmp_path / kind))


def test_folders_of_another_kind(folders, tmp_path):
    with pytest.raises(ValueError, match="SAM2Decoder should be .* sam2 or sam2_video.*'sam_hq'"):
        SAM2Decoder(folders['sam_hq'])
    with pytest.raises(FileNotFoundError, match='model.decoder.pretrained.*does not exist'):
        SAM3Decoder(str(tmp_path / 'sam3'))
    (tmp_path / 'config.json').write_text(json.dumps(dict(model_type='qwen2_5_vl')))
    with pytest.raises(ValueError, match="SAMHQDecoder should be .*sam_hq.*'qwen2_5_vl'"):
        SAMHQDecoder(str(tmp_path))


@pytest.mark.gpu
def test_on_a_gpu(folders):
    for kind, cls in KINDS.items():
        decoder = cls(folders[kind])
        masks, scores = decoder(scene(), BOXES, POINTS)
        there, there_scores = decoder.to('cuda')(scene(), BOXES, POINTS)
        assert there.device.type == there_scores.device.type == 'cuda'
        torch.testing.assert_close(there_scores.cpu(), scores, atol=1e-3, rtol=1e-3)
        assert (there.cpu() == masks).float().mean() > 0.99
