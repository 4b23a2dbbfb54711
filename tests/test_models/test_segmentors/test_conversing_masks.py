# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Conversations of a segmentor in which its policy sees the mask of an answer before it answers."""
import json

import pytest
import torch
from mmengine.runner import Runner
from scripted_rollout import Scripted

from mmdpad.models.rollouts import conversations
from mmdpad.models.segmentors.mask_turns import outline
from mmdpad.prompts.zoom import ShowMask
from mmdpad.registry import MODELS
from mmdpad.rewards import MaskReward
from mmdpad.structures import AnsweredObject

SETTINGS = dict(max_turns=3, max_tokens=1000, limits=dict(min_side=28, size=(112, 112)))
ZOOM = '<think>small</think><zoom>[0, 0, 56, 56]</zoom>'
ENTRY = dict(bbox=[28, 56, 84, 112], points_1=[56, 84], points_2=[60, 100])
TEXT = json.dumps(dict(ENTRY, negative_points=[[30, 58]]))
MASK = f'<think>let me see</think><mask>{TEXT}</mask>'
ANSWER = f'<think>so it is</think><answer>{TEXT}</answer><caption>a cup</caption>'
BAD = '<think>t</think><mask>the cup</mask>'
TASKS = dict(find=dict(type='SegmentationTask', template='zoom_and_mask', negative_points=True))


@pytest.fixture
def build(tiny_config):
    def build(*turns, **conversation):
        tiny_config.model.policy.pop('prompt_template', None)
        model = MODELS.build(dict(
            tiny_config.model, tasks=TASKS, conversation=SETTINGS | conversation,
            test_cfg=dict(tiny_config.model.test_cfg, max_new_tokens=200))).eval()
        if turns:
            model.conversations.engine = Scripted(*turns)
        return model

    return build


@pytest.fixture
def batch(tiny_config):
    return next(iter(Runner.build_dataloader(dict(tiny_config.test_dataloader, batch_size=2))))


@pytest.fixture
def replies(monkeypatch):
    """The images of replies, in order."""
    shown = []
    encode = conversations.ReplyEncoder.__call__

    def record(self, text, image=None):
        shown.extend([] if image is None or not text else [image])
        return encode(self, text, image)

    monkeypatch.setattr(conversations.ReplyEncoder, '__call__', record)
    return shown


@pytest.mark.parametrize('in_crop', [False, True])
def test_the_mask_that_is_shown_is_that_of_the_answer(build, batch, replies, in_crop):
    model = build([ZOOM, MASK], [MASK, BAD], [ANSWER, ANSWER], decode_in_crop=in_crop)
    images = batch['inputs']['image']
    zoomed, whole = model.test_step(batch)
    crop_shown, second_shown, first_shown = replies[0], replies[2], replies[1]
    crop = zoomed.reasoning['conversation'].crops[0]
    assert torch.equal(crop_shown, crop.cut(images[0]))
    x1, y1, x2, y2 = crop.box
    assert torch.equal(second_shown, outline(
        crop_shown, zoomed.pred_instances.masks[0, y1:y2, x1:x2].numpy()))
    assert torch.equal(first_shown, outline(
        batch['inputs']['model_image'][1], whole.pred_instances.masks[0].numpy()))
    for sample, bad in ((zoomed, ()), (whole, ('bad_mask', ))):
        record = sample.reasoning['conversation']
        assert (record.masks, record.bad_calls, record.ended_by) == (1, bad, 'answer')
        (negatives, ) = sample.pred_instances.negative_points
        assert len(negatives) == 1 and sample.reasoning['parsed'].objects[0].negative_points
    height, width = zoomed.ori_shape
    assert zoomed.pred_instances.negative_points[0][0] == pytest.approx(
        [width * 30 / 224, height * 58 / 224])
    # The decoder saw the crop, as an image of its own.
    alone = model.decode_masks([AnsweredObject(
        tuple(ENTRY['bbox']), (tuple(ENTRY['points_1']), tuple(ENTRY['points_2'])),
        negative_points=((30, 58), ))], images[0][:, y1:y2, x1:x2], (112, 112))
    assert torch.equal(zoomed.pred_instances.masks[:, y1:y2, x1:x2], alone.masks) == in_crop


def test_a_stored_conversation_counts_its_masks_without_drawing_them(build, batch, monkeypatch):
    model = build([ZOOM, MASK], [MASK, BAD], [ANSWER, MASK], decode_in_crop=True)
    first = [sample.clone() for sample in model.test_step(batch)]
    for sample, own in zip(batch['data_samples'], first, strict=True):
        sample.set_metainfo(dict(cached_response=(own.reasoning['response'],
                                                  own.reasoning['truncated'])))
    monkeypatch.setattr('mmdpad.models.segmentors.mask_turns.outline', None)
    for sample, own in zip(model.test_step(batch), first, strict=True):
        assert sample.reasoning['conversation'] == own.reasoning['conversation']
        assert torch.equal(sample.pred_instances.masks, own.pred_instances.masks)
    assert len(model.conversations.engine.calls) == 3
    assert [own.reasoning['conversation'].ended_by for own in first] == ['answer', 'turns']


def test_training_with_masks_gives_the_decoder_no_gradient(build, batch, monkeypatch):
    """The policy's own engine, whose responses are taken for calls."""
    monkeypatch.setattr(conversations, 'read_turn', lambda text: ShowMask(TEXT))
    model = build(max_turns=2)
    monkeypatch.setattr(model.policy, 'end_tokens', [*model.policy.end_tokens, *range(0, 300, 5)])
    data = model.data_preprocessor(batch, False)
    rollout = model.rollout(**data, group_size=2, max_new_tokens=12, temperature=1.0)
    masks = [record.masks for record in rollout.conversations]
    assert sum(masks) and [len(own) for own in rollout.replies] == masks
    model.build_reference()
    rollout.advantages = torch.tensor([[1., -1], [1, -1]])
    model.loss(rollout)['loss'].backward()
    assert any(p.grad is not None and p.grad.any() for p in model.policy.parameters())
    assert all(p.grad is None and not p.requires_grad for p in model.decoder.parameters())


def test_the_reward_decodes_what_a_prediction_does(build, batch):
    turns = [ZOOM, ANSWER, ZOOM, ANSWER], [ANSWER, ANSWER]
    model = build(*turns, decode_in_crop=True)
    rollout = model.rollout(**model.data_preprocessor(batch, False), group_size=2,
                            max_new_tokens=200)
    reward, seen = MaskReward(), []
    reward.prepare(model, [dict(data_samples=batch['data_samples'][0])])
    decode = model.decoder.forward
    model.decoder.forward = lambda image, *args, **options: (
        seen.append(image.shape[:2]), decode(image, *args, **options))[1]
    scores = reward(rollout)
    height, width = rollout.images[0].shape[-2:]
    assert seen[:2] == [(height // 2, width // 2), (height, width)] and len(seen) == 4
    model.decode_in_crop = False
    assert not torch.equal(reward(rollout)[:, 0], scores[:, 0])
    assert torch.equal(reward(rollout)[:, 1], scores[:, 1])


def test_settings_that_are_refused(build, tiny_config):
    with pytest.raises(ValueError, match='`conversation.decode_in_crop` should be True or False'):
        build(decode_in_crop='yes')
    tiny_config.model.decoder = None
    with pytest.raises(ValueError, match='`conversation.decode_in_crop` should be False without'):
        build(decode_in_crop=True)
