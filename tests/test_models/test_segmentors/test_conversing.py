# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import logging

import pytest
import torch
from mmengine.runner import Runner
from scripted_rollout import Scripted

from mmdpad.geometry.crops import Crop
from mmdpad.models.rollouts.conversations import ConversationSampler
from mmdpad.prompts import format_response
from mmdpad.registry import MODELS
from mmdpad.structures import ParseFailure, read_turns, write_turns

SETTINGS = dict(max_turns=2, max_tokens=1000, limits=dict(min_side=28, size=(112, 112)))
# The left upper quarter of the 112-pixel model image; then an answer about that crop.
CALL = '<think>small here</think><zoom>[0, 0, 56, 56]</zoom>'
ANSWER = format_response('so it is', (28, 56, 84, 112), ((56, 84), (60, 100)), 'a cup')
BAD = '<think>t</think><zoom>[1]</zoom>'


@pytest.fixture
def config(tiny_config):
    return dict(tiny_config.model, conversation=SETTINGS,
                test_cfg=dict(tiny_config.model.test_cfg, max_new_tokens=200))


@pytest.fixture
def build(config):
    def build(*turns, **changes):
        model = MODELS.build(dict(config, **changes)).eval()
        model.conversations.engine = Scripted(*turns)
        return model

    return build


@pytest.fixture
def batch(tiny_config):
    return next(iter(Runner.build_dataloader(dict(tiny_config.test_dataloader, batch_size=2))))


def test_an_answer_about_a_crop_comes_back_in_the_original_frame(build, batch):
    model = build([CALL, BAD], [ANSWER, CALL])
    answered, failed = model.test_step(batch)
    height, width = answered.ori_shape
    found = answered.pred_instances
    # (28, 56, 84, 112) of the crop, which is half as wide and high as the image
    torch.testing.assert_close(found.bboxes, torch.tensor(
        [[width / 8, height / 4, width * 3 / 8, height / 2]]))
    torch.testing.assert_close(found.points[0, 0], torch.tensor([width / 4, height * 3 / 8]))
    assert found.masks.shape == (1, height, width)
    said = answered.reasoning
    torch.testing.assert_close(torch.tensor(said['parsed'].box), torch.tensor([14., 28, 42, 56]))
    assert read_turns(said['response']) == [CALL, ANSWER] and not said['truncated']
    assert said['reasoning_tokens'] == sum(map(model.policy.count_tokens, ('small here',
                                                                          'so it is')))
    record = said['conversation']
    assert record.texts == (CALL, ANSWER) and record.response == said['response']
    assert record.crops == (Crop((0, 0, width // 2, height // 2), (112, 112)), )
    assert (record.bad_calls, record.ended_by, record.masks) == ((), 'answer', 0)
    assert record.describe() == dict(turns=[CALL, ANSWER], bad_calls=[], ended_by='answer',
                                     crops=[[0, 0, width // 2, height // 2]], masks=0)
    assert len(failed.pred_instances) == 0 and isinstance(failed.reasoning['parsed'], ParseFailure)
    record = failed.reasoning['conversation']
    assert (record.crops, record.bad_calls, record.ended_by) == ((), ('bad_box', ), 'turns')


LONG = f'<think>{"small " * 200}</think>'


@pytest.mark.parametrize('max_tokens, turns, ended_by', [
    (1000, [CALL, ANSWER], 'answer'), (1000, [CALL, CALL], 'turns'), (1000, [BAD, BAD], 'turns'),
    (210, [CALL], 'tokens'), (210, [BAD], 'tokens'), (1000, [CALL, LONG], 'length'),
    (1000, [LONG], 'length'), (1000, ['neither'], 'answer'), (1000, [BAD, ANSWER], 'answer')])
def test_a_stored_conversation_is_replayed_from_its_texts(build, batch, max_tokens, turns,
                                                          ended_by):
    for name in batch['inputs']:
        batch['inputs'][name] = batch['inputs'][name][:1]
    batch['data_samples'] = batch['data_samples'][:1]
    model = build(*([turn] for turn in turns),
                  conversation=dict(SETTINGS, max_tokens=max_tokens))
    first = model.test_step(batch)[0].clone()
    assert first.reasoning['conversation'].ended_by == ended_by
    sample = batch['data_samples'][0]
    sample.set_metainfo(dict(cached_response=(first.reasoning['response'],
                                              first.reasoning['truncated'])))
    (again, ) = model.test_step(batch)
    assert len(model.conversations.engine.calls) == len(turns)  # nothing was asked again
    for name in first.reasoning.keys() - {'seconds'}:
        assert first.reasoning[name] == again.reasoning[name]
    assert first.pred_instances.bboxes.equal(again.pred_instances.bboxes)


def test_what_is_stored_may_be_anything(build, batch):
    model = build()
    for sample, text in zip(batch['data_samples'], ('no list', write_turns([])), strict=True):
        sample.set_metainfo(dict(cached_response=(text, False)))
    for sample, text in zip(model.test_step(batch), ('no list', '[]'), strict=True):
        assert sample.reasoning['conversation'].texts == (text, )
        assert isinstance(sample.reasoning['parsed'], ParseFailure)


def test_a_rollout_of_conversations_is_trained_on(build, batch):
    model = build([CALL, ANSWER, ANSWER, CALL], [ANSWER, ANSWER])
    data = model.data_preprocessor(batch, False)
    rollout = model.rollout(**data, group_size=2, max_new_tokens=200)
    assert rollout.texts == [ANSWER] * 4
    assert [len(own) for own in rollout.replies] == [1, 0, 0, 1]
    assert [record.ended_by for record in rollout.conversations] == ['answer'] * 4
    boxes = torch.tensor([parsed.box for parsed in rollout.parsed])
    torch.testing.assert_close(boxes, torch.tensor(
        [[14., 28, 42, 56], [28, 56, 84, 112], [28, 56, 84, 112], [14, 28, 42, 56]]))
    model.build_reference()
    logp, _, _ = model.log_probs(rollout)
    parts = [model.log_probs(part)[0] for part in rollout.split(1)]
    for row, own in enumerate(rollout.response_mask):
        part = parts[row // 2][row % 2]
        torch.testing.assert_close(part[own[:len(part)]], logp[row][own], rtol=0, atol=1e-4)
    assert not (logp != 0)[~rollout.response_mask].any()
    rollout.advantages = torch.tensor([[1., -1], [1, -1]])
    model.loss(rollout)['loss'].backward()
    assert any(p.grad is not None and p.grad.any() for p in model.policy.parameters())
    joined = type(rollout).concatenate(list(rollout.split(1)))
    assert joined.conversations == rollout.conversations
    assert model.most_tokens == 2 * model.sampling['max_new_tokens']


def test_without_original_images_nothing_can_be_shown(build, batch):
    del batch['inputs']['image']
    with pytest.raises(ValueError, match='should have the original images as `image`'):
        build()._forward(**build().data_preprocessor(batch, False))


def test_batches_are_not_answered_ahead(build):
    batches = [dict(inputs=1), dict(inputs=2)]
    assert list(build().answer_ahead(iter(batches))) == batches


@pytest.mark.parametrize('changes, named', [
    (dict(conversation=dict(turns=3)), r"keys among \['decode_in_crop', 'limits', .*, but got "
                                       r"\['turns'\]"),
    (dict(conversation=dict(limits=dict(side=3))), '`conversation.limits` should have keys'),
    (dict(conversation=dict(max_turns=0)), r'`conversation.max_turns` should be at least 1'),
    (dict(conversation=3), r'`conversation` should be a dict, but got 3'),
    (dict(conversation=dict(max_tokens=100)), '`conversation.max_tokens` should be at least '
                                              '`max_new_tokens` = 112 of one turn'),
    (dict(test_cfg=dict(num_samples=2, select='consensus', max_new_tokens=9)),
     '`test_cfg.num_samples` should not')])
def test_what_does_not_fit_is_refused(tiny_config, changes, named):
    with pytest.raises(ValueError, match=named):
        MODELS.build(dict(tiny_config.model, **(dict(conversation=SETTINGS) | changes)))


@pytest.mark.parametrize('template, settings, warned', [
    ('default', SETTINGS, 'No prompt of the model mentions a call'),
    ('look "{question}"', SETTINGS, ''),  # with which a policy may have learned to call
    ('zoom', None, 'The prompts of segmentation offer'), ('zoom', SETTINGS, ''),
    ('find "{question}"', None, '')])
def test_a_prompt_that_does_not_fit_is_a_warning(tiny_config, monkeypatch, template, settings,
                                                 warned):
    from mmdpad.models.segmentors import conversing
    said = []
    monkeypatch.setattr(conversing, 'print_log', lambda text, logger, level: said.extend(
        [text] if level >= logging.WARNING else []))
    policy = dict(tiny_config.model.policy, prompt_template=template)
    model = MODELS.build(dict(tiny_config.model, policy=policy, conversation=settings))
    assert ''.join(said).startswith(warned) and bool(said) == bool(warned)
    assert isinstance(model.conversations, ConversationSampler) == (settings is not None)


def test_a_fixed_tower_encodes_the_images_of_replies_before_an_update(build, config, batch,
                                                                      monkeypatch):
    """Those that the engine saw with its own copy of the weights: all in one call, in which all
    processes take part."""
    model = build([CALL, BAD, CALL, ANSWER], [ANSWER] * 3,
                  policy=dict(config['policy'], freeze_vision=True))
    model.conversations.engine.copies_weights = True
    encode, counts = type(model.policy.family).encode_images, []
    monkeypatch.setattr(type(model.policy.family), 'encode_images', lambda self, policy, prompts: (
        counts.append(len(prompts)), encode(self, policy, prompts))[1])
    data = model.data_preprocessor(batch, False)
    started = model.start_rollout(**data, group_size=2, max_new_tokens=200)
    assert counts == [2 + 2]
    assert all(reply.vision for talk in started.talks for reply in talk.replies)
