# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""SAM 3 by text, on tiny random weights."""
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Sam3Model, Sam3Processor, Sam3TrackerVideoModel

from mmdpad.models import SAM3ConceptDecoder, SAM3Decoder
from mmdpad.models.non_finite import NonFiniteError
from mmdpad.models.weights import load_pretrained
from mmdpad.toy.sam_folders import make_sam3_folder

BOXES = torch.tensor([[10., 8., 40., 30.], [0., 0., 79., 47.]])
POINTS = torch.tensor([[[20., 15.], [30., 25.7]], [[50., 20.], [60.1, 30.]]])
TEXT = 'a red dog'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return make_sam3_folder(tmp_path_factory.mktemp('sam3') / 'sam3', video=True)


@pytest.fixture(scope='module')
def decoder(folder):
    return SAM3ConceptDecoder(folder, score_thr=0.2)


@pytest.fixture(scope='module')
def tracker(folder):
    return SAM3Decoder(folder)


def scene(height=48, width=80, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@torch.no_grad()
def by_transformers(folder, image, text, threshold):
    """Scores and masks as the documentation of transformers makes them, best first."""
    processor, model = Sam3Processor.from_pretrained(folder), Sam3Model.from_pretrained(folder)
    inputs = processor(images=Image.fromarray(image), text=text, return_tensors='pt')
    found, = processor.post_process_instance_segmentation(
        model(**inputs), threshold=threshold, target_sizes=inputs['original_sizes'].tolist())
    order = found['scores'].argsort(descending=True, stable=True)
    return found['scores'][order], found['masks'][order].bool()


@pytest.mark.parametrize('size', [(48, 80), (80, 48), (64, 64), (200, 31)])
def test_instances_are_those_of_transformers(decoder, folder, size, monkeypatch):
    image = scene(*size)
    scores, _ = by_transformers(folder, image, TEXT, 0.0)
    threshold = float(scores[1:3].mean())
    scores, masks = by_transformers(folder, image, TEXT, threshold)
    assert len(scores) == 2
    monkeypatch.setattr(decoder, 'score_thr', threshold)
    for _ in range(2):  # the second from the cache
        found = decoder.find(image, TEXT)
        assert torch.equal(found.scores, scores) and torch.equal(found.masks[:], masks)
    for mask in masks:
        assert mask.any() and not mask.all()
    assert not torch.equal(decoder.find(image, 'two cats').scores, scores)


def test_an_object_gets_its_instance_or_the_trackers_mask(decoder, tracker):
    image = scene()
    found = decoder.find(image, TEXT)
    boxes = torch.stack([found.boxes[0].float(), torch.tensor([70., 40., 75., 45.])])
    masks, scores, fallback = decoder(image, boxes, POINTS, TEXT)
    assert fallback.tolist() == [False, True]
    assert torch.equal(masks[0], found.masks[0]) and scores[0] == found.scores[0]
    mask, score = tracker(image, boxes[1:], POINTS[1:])
    assert torch.equal(masks[1], mask[0]) and scores[1] == score[0]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_without_a_text_it_is_the_tracker(folder, dtype):
    image = scene()
    masks, scores, fallback = SAM3ConceptDecoder(folder, dtype=dtype)(image, BOXES, POINTS)
    expected, expected_scores = SAM3Decoder(folder, dtype=dtype)(image, BOXES, POINTS)
    assert fallback.all()
    assert torch.equal(masks, expected) and torch.equal(scores, expected_scores)


def test_bfloat16_is_near(folder):
    fast = SAM3ConceptDecoder(folder, dtype='bfloat16', score_thr=0.0)
    assert all(p.dtype == torch.float32 for p in fast.parameters())
    exact = SAM3ConceptDecoder(folder, score_thr=0.0).find(scene(), TEXT).scores
    near = fast.find(scene(), TEXT).scores
    assert not torch.equal(near, exact)
    torch.testing.assert_close(near, exact, atol=0.02, rtol=0)


def test_a_loop_with_fp16_changes_nothing(decoder):
    decoder.feature_cache.clear()
    with torch.autocast('cpu', torch.bfloat16):
        found = decoder.find(scene(), TEXT)
    decoder.feature_cache.clear()
    expected = decoder.find(scene(), TEXT)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.masks[:], expected.masks[:])


def test_one_pass_of_the_image_encoder_serves_all(folder):
    decoder, calls = SAM3ConceptDecoder(folder, score_thr=0.0), []
    decoder.backbone.backbone.register_forward_hook(lambda *_: calls.append(1))
    for text in (TEXT, 'two cats', None):
        decoder(scene(), BOXES, POINTS, text)
    assert len(calls) == 1
    decoder(scene(seed=1), BOXES, POINTS, None)
    assert len(calls) == 2
    names = [name for name, _ in decoder.named_parameters()]
    assert sum('.layers.0.' in name and 'backbone.layers' in name for name in names) == len(
        [name for name, _ in decoder.backbone.backbone.layers[0].named_parameters()])


def counted(model):
    """Calls of the model from now on."""
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize('cache_size', [0, 1])
def test_a_group_has_the_bits_of_each_answer_by_itself(folder, cache_size):
    """With one pass of the image encoder and of each neck, and one of the detector per text."""
    settings = dict(score_thr=0.2, cache_size=cache_size)
    alone, decoder = (SAM3ConceptDecoder(folder, **settings) for _ in range(2))
    image = scene()
    boxes = torch.stack([alone.find(image, TEXT).boxes[0], torch.tensor([70., 40., 75., 45.])])
    answers = [(boxes, POINTS, TEXT), (BOXES, POINTS, 'two cats'), (boxes[:0], POINTS[:0], 'a fox'),
               (BOXES, POINTS, None), (boxes[:1], POINTS[:1], f' {TEXT} ')]
    parts = (decoder.backbone.backbone, decoder.detector.vision_encoder.neck,
             decoder.sam.vision_encoder.neck, decoder.detector)
    calls = [counted(part) for part in parts]
    got = decoder.decode_answers(image, answers)
    assert [len(each) for each in calls] == [1, 1, 1, 2]
    fallbacks = [answer[2].tolist() for answer in got]
    assert fallbacks[0] == [False, True] and fallbacks[2:] == [[], [True, True], [False]]
    for one, answer in zip(got, answers, strict=True):
        assert all(map(torch.equal, one, alone(image, *answer)))
    assert len(decoder.feature_cache) == cache_size
    other = scene(seed=1)
    assert torch.equal(decoder.find(other, TEXT).scores, alone.find(other, TEXT).scores)
    assert all(map(torch.equal, decoder(other, BOXES, POINTS, TEXT),
                   alone(other, BOXES, POINTS, TEXT)))


def test_a_long_text_is_truncated(decoder, folder):
    """transformers' processor pads to 32 tokens and truncates nothing, which its model refuses."""
    long = 'dog ' * 40
    processor = Sam3Processor.from_pretrained(folder)
    short = 'dog ' * 10  # 30 letters, and two special tokens
    exact = processor(text=short, return_tensors='pt')
    assert exact['attention_mask'].sum() == 32
    for name, value in decoder.tokenize(long).items():
        assert torch.equal(value, exact[name])
    assert processor(text=long, return_tensors='pt')['input_ids'].shape[1] > 32
    scores = [decoder.find(scene(), text).scores for text in (long, short)]
    assert torch.equal(*scores)


def test_many_instances_are_resized_in_parts(folder, monkeypatch):
    decoder = SAM3ConceptDecoder(folder, score_thr=0.0)
    whole = decoder.find(scene(), TEXT)
    monkeypatch.setattr('mmdpad.models.decoders.sam3_concept_decoder._AT_ONCE', 3)
    parts = decoder.find(scene(), TEXT)
    assert len(whole.scores) == 4
    assert torch.equal(whole.masks[:], parts.masks[:]) and torch.equal(whole.scores, parts.scores)


def test_scores_that_are_not_finite_are_an_error(folder):
    decoder = SAM3ConceptDecoder(folder)
    decoder.detector.text_projection.weight.data.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="finite scores, but some for 'a red dog' are not.*"
                                             'text_projection'):
        decoder(scene(), BOXES, POINTS, TEXT)


@torch.no_grad()
def test_the_tracker_is_that_of_the_video_model(folder, tracker, tmp_path):
    """Meta's predictor and the video model add `no_memory_embedding` to the image embedding;
    `Sam3TrackerModel` adds it to a level that it does not use."""
    state = {name.removeprefix('tracker_model.'): value
             for name, value in load_file(f'{folder}/model.safetensors').items()}
    for name in list(state):
        for old, new in (('tracker_neck.', 'vision_encoder.neck.'),
                         ('detector_model.vision_encoder.backbone.', 'vision_encoder.backbone.')):
            if name.startswith(old):
                state[new + name.removeprefix(old)] = state[name]
    config = json.loads((tmp_path.parent / folder / 'config.json').read_text())['tracker_config']
    video = Sam3TrackerVideoModel(Sam3TrackerVideoModel.config_class(**config)).eval()
    assert not video.load_state_dict(state, strict=False).missing_keys
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    assert video.no_memory_embedding.abs().max() > 0.1
    expected = video.get_image_embeddings(pixels)
    got = tracker.embed(pixels)['image_embeddings']
    assert len(got) == 3 and all(map(torch.equal, got, expected))


def test_results_name_the_settings_that_masks_depend_on(folder, decoder):
    assert decoder.variant == 'sam3, caption, score_thr=0.2, min_iou=0.1'
    other = SAM3ConceptDecoder(folder, text='noun_phrase', max_hole_area=9)
    assert other.variant == 'sam3, max_hole_area=9, noun_phrase, score_thr=0.3, min_iou=0.1'


def test_a_folder_without_detector_or_tokenizer(folder, tmp_path):
    with pytest.raises(ValueError, match='SAM3ConceptDecoder should be .* sam3_video.*sam3_track'):
        SAM3ConceptDecoder(make_sam3_folder(tmp_path / 'tracker'))
    copy = shutil.copytree(folder, tmp_path / 'copy')
    (copy / 'tokenizer.json').unlink()
    with pytest.raises(ValueError, match='has neither tokenizer.json nor vocab.json with merges'):
        SAM3ConceptDecoder(str(copy))
    SAM3Decoder(str(copy))


def test_every_weight_comes_from_the_file(folder, decoder, tmp_path):
    stored = load_file(f'{folder}/model.safetensors')
    for name, value in load_pretrained(Sam3Model, folder, '').state_dict().items():
        own = name.replace('backbone.', 'backbone.backbone.')
        assert torch.equal(decoder.detector.state_dict()[own], value)
        assert torch.equal(stored[f'detector_model.{name}'], value)
    copy = shutil.copytree(folder, tmp_path / 'copy')
    name = 'detector_model.text_projection.weight'
    save_file({key: value for key, value in stored.items() if key != name},
              copy / 'model.safetensors', metadata=dict(format='pt'))
    with pytest.raises(ValueError, match='do not fit the model: 1 missing .text_projection.weight'):
        SAM3ConceptDecoder(str(copy))


@pytest.mark.gpu
def test_on_a_gpu(decoder):
    expected = decoder(scene(), BOXES, POINTS, TEXT)
    got = decoder.to('cuda')(scene(), BOXES, POINTS, TEXT)
    decoder.to('cpu')
    assert all(value.device.type == 'cuda' for value in got)
    assert (got[0].cpu() == expected[0]).float().mean() > 0.99
    torch.testing.assert_close(got[1].cpu(), expected[1], atol=1e-3, rtol=1e-3)
    assert torch.equal(got[2].cpu(), expected[2])
