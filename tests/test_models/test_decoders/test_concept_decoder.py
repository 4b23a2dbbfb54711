# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What holds for every decoder that takes a text, on a toy one."""
import math

import cv2
import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from toy_concepts import ToyConceptDecoder

from mmdpad.geometry.boxes import union_box
from mmdpad.models import SAMDecoder
from mmdpad.models.decoders.instances import Instances
from mmdpad.models.segmentors.mask_decoding import decode_group
from mmdpad.prompts import format_response
from mmdpad.registry import MODELS
from mmdpad.rewards import MaskReward
from mmdpad.structures import AnsweredObject, RolloutBatch
from mmdpad.toy import SAM_WEIGHTS
from mmdpad.toy.shapes_world import COLORS, make_scene


@pytest.fixture(scope='module')
def decoder():
    return ToyConceptDecoder()


@pytest.fixture(scope='module')
def scene():
    return make_scene('test', 0, world='look_alikes')


def prompts_of(*objects):
    """The tight boxes of objects, and their centers as two points each."""
    return (torch.tensor([item.box for item in objects]),
            torch.tensor([[item.center] * 2 for item in objects]))


def mask_of(item, shape):
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.round(item.polygon).astype(np.int32)], 1)
    return mask.astype(bool)


def iou(mask, truth):
    return (mask & truth).sum() / (mask | truth).sum()


def loose_answer(scene):
    """A box around the target and the object nearest to it, and a point on each of the two."""
    target = scene.target
    other = min((item for item in scene.objects if item is not target),
                key=lambda item: math.dist(item.center, target.center))
    return (torch.tensor([union_box([target.box, other.box])]),
            torch.tensor([[target.center, other.center]]))


def test_on_look_alikes_the_choice_is_right_where_box_only_is_not(decoder):
    box_only, strict = SAMDecoder('vit_shapes', SAM_WEIGHTS), ToyConceptDecoder(min_iou=0.3)
    by_text, by_text_strictly, by_box = [], [], []
    for index in range(40):
        scene = make_scene('test', index, world='look_alikes')
        answer, truth = loose_answer(scene), mask_of(scene.target, scene.image.shape[:2])
        for one, right in ((decoder, by_text), (strict, by_text_strictly)):
            masks, *_ = one(scene.image, *answer, f'a {scene.target.name}.')
            right.append(iou(masks[0].numpy(), truth) > 0.5)
        by_box.append(iou(box_only(scene.image, *answer)[0][0].numpy(), truth) > 0.5)
    assert (sum(by_text), sum(by_text_strictly), sum(by_box)) == (39, 24, 15)


def test_an_object_without_an_instance_is_decoded_by_its_box(decoder, scene):
    boxes, points = prompts_of(*scene.objects)
    expected = SAMDecoder('vit_shapes', SAM_WEIGHTS)(scene.image, boxes, points)
    missing = next(color for color in COLORS if all(o.color != color for o in scene.objects))
    for text in (None, '', '  ', f'a {missing} thing'):
        *got, fallback = decoder(scene.image, boxes, points, text)
        assert fallback.all() and all(map(torch.equal, got, expected))
    # Some objects by the text, the others by their boxes, each in its place.
    masks, scores, fallback = decoder(scene.image, boxes, points, scene.target.name)
    target = scene.question.target
    assert fallback.tolist() == [index != target for index in range(len(scene.objects))]
    assert scores[target] == pytest.approx(0.9)
    assert iou(masks[target].numpy(), mask_of(scene.target, masks.shape[1:])) > 0.8
    assert torch.equal(masks[fallback], expected[0][fallback])
    assert torch.equal(scores[fallback], expected[1][fallback])


def test_several_objects_get_an_instance_each(decoder, scene):
    boxes, points = prompts_of(*scene.objects)
    masks, scores, fallback = decoder(scene.image, boxes, points, 'shapes')
    assert not fallback.any() and (scores == 0.9).all()
    for item, mask in zip(scene.objects, masks.numpy(), strict=True):
        assert iou(mask, mask_of(item, mask.shape)) > 0.8
    # Two requests for one thing: only one gets its instance.
    _, _, fallback = decoder(scene.image, boxes[[0, 0]], points[[0, 0]], 'shapes')
    assert sorted(fallback.tolist()) == [False, True]


def test_no_object(decoder, scene):
    masks, scores, fallback = decoder(scene.image, torch.zeros(0, 4), torch.zeros(0, 2, 2), 'star')
    assert masks.shape == (0, *scene.image.shape[:2])
    assert scores.shape == fallback.shape == (0, ) and fallback.dtype == torch.bool


def test_the_noun_phrase_of_a_caption():
    decoder = ToyConceptDecoder(text='noun_phrase')
    assert decoder.prepare_text('A red star next to a blue circle') == 'red star'
    assert decoder.prepare_text('\ud800') == '\N{REPLACEMENT CHARACTER}'
    assert decoder.prepare_text(None) == ''


@pytest.mark.parametrize('settings, problem', [
    (dict(text='words'), "`text` should be one of .*'noun_phrase'.*'words'"),
    (dict(min_iou=0), r'`min_iou` should be in \(0, 1\], but got 0'),
    (dict(score_thr=1.0), r'`score_thr` should be in \[0, 1\), but got 1.0')])
def test_settings_that_are_refused(settings, problem):
    with pytest.raises(ValueError, match=problem):
        ToyConceptDecoder(**settings)


class Sprinkled(ToyConceptDecoder):
    """Every mask has a separate pixel in a corner."""

    def find(self, image, text):
        found = super().find(image, text)
        masks = found.masks[:]
        masks[:, 0, 0] = True
        return Instances.of(masks, found.scores)

    def segment(self, image, boxes, points):
        masks, scores = super().segment(image, boxes, points)
        masks[:, 0, 0] = True
        return masks, scores


@pytest.mark.parametrize('area', [0, 1])
def test_masks_are_cleaned_whichever_way_they_are_made(scene, area):
    decoder = Sprinkled()
    decoder.max_sprinkle_area = area
    masks, _, fallback = decoder(scene.image, *prompts_of(*scene.objects), scene.target.name)
    assert set(fallback.tolist()) == {True, False}
    assert (masks[:, 0, 0] == (area == 0)).all()


@pytest.fixture
def segmentor(tiny_config):
    MODELS.register_module(module=ToyConceptDecoder)
    yield MODELS.build(dict(tiny_config.model, decoder=dict(type='ToyConceptDecoder'))).eval()
    MODELS._module_dict.pop('ToyConceptDecoder')


def test_a_segmentor_hands_over_the_caption(segmentor, tiny_config):
    batch = next(iter(Runner.build_dataloader(dict(tiny_config.test_dataloader, batch_size=2))))
    for sample, caption in zip(batch['data_samples'], ('a shape', ''), strict=True):
        sample.cached_response = (format_response('so', (0, 0, 50, 50), [(1, 1), (2, 2)],
                                                  caption), False)
    texts = []
    segmentor.decoder.find = lambda image, text: (
        texts.append(text), ToyConceptDecoder.find(segmentor.decoder, image, 'nothing'))[1]
    for sample in segmentor.test_step(batch):
        assert sample.pred_instances.fallback.dtype == torch.bool
        assert len(sample.pred_instances.fallback) == 1
    assert texts == ['a shape']


def test_a_mask_reward_reads_each_caption_with_its_own_answer(segmentor, tiny_config):
    batch = next(iter(Runner.build_dataloader(dict(tiny_config.test_dataloader, batch_size=1))))
    sample, (model_image, ), (image, ) = (
        batch['data_samples'][0], batch['inputs']['model_image'], batch['inputs']['image'])
    texts = [format_response('so', (0, 0, 50, 50), [(1, 1), (2, 2)], caption)
             for caption in ('first', 'second')] + ['no answer']
    asked = []
    segmentor.decoder.find = lambda image, text: (
        asked.append(text), ToyConceptDecoder.find(segmentor.decoder, image, 'star'))[1]
    reward = MaskReward()
    reward.prepare(segmentor, [dict(data_samples=sample)])
    parsed = [segmentor._read(text, model_image, sample)[0] for text in texts]
    rollout = RolloutBatch([sample], [model_image], 3, texts, parsed, images=[image])
    scores = reward(rollout)
    assert scores.shape == (1, 3) and scores[0, 2] == 0
    assert asked == ['first', 'second']
    assert rollout.signals['fallback'].tolist() == [[1, 1, pytest.approx(math.nan, nan_ok=True)]]


class OneAnswer(torch.nn.Module):
    """Takes captions, and knows no more than the contract of docs/decoders.md."""

    takes_text = True

    def forward(self, image, boxes, points, text):
        masks = torch.zeros(len(boxes), *image.shape[:2], dtype=torch.bool)
        masks[:] = text == 'all'
        return masks, torch.ones(len(boxes)), torch.full((len(boxes), ), text != 'all')


def test_a_custom_decoder_gets_one_answer_of_a_group_after_the_other():
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    item = AnsweredObject((1., 1., 5., 5.), ((2., 2.), ))
    first, none, last = decode_group(OneAnswer(), [([item, item], 'all'), ((), 'all'),
                                                   ([item], None)], image, (4, 4))
    assert first.masks.all() and first.fallback.tolist() == [False, False]
    assert none.masks.shape == (0, 8, 8)
    assert not last.masks.any() and last.fallback.tolist() == [True]
