# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_state_dict

from mmdpad.models import HFRollout
from mmdpad.models.heads.lora import SCALING
from mmdpad.models.rollouts import Responses
from mmdpad.prompts import format_detections, format_objects_response, format_response
from mmdpad.registry import MODELS
from mmdpad.rl import PolicyLoss
from mmdpad.structures import ParseFailure, ReasoningOutput


class FixedRollout(HFRollout):
    """Writes given texts instead of sampling."""

    def __init__(self, texts):
        self.texts = texts

    def __call__(self, head, prompts, group_size=1, **sampling):
        tokens = head.processor.tokenizer(self.texts, return_tensors='pt', padding=True,
                                          padding_side='right')
        mask = tokens['attention_mask'].bool()
        return Responses(tokens['input_ids'], mask, torch.zeros(len(mask), dtype=torch.bool))


@pytest.fixture
def model(tiny_config):
    return MODELS.build(tiny_config.model).eval()


@pytest.fixture
def batch(tiny_config):
    return next(iter(Runner.build_dataloader(dict(tiny_config.test_dataloader, batch_size=2))))


def test_predict_gives_boxes_points_and_masks_in_the_original_frame(model, batch):
    text = format_response('so', (28, 56, 84, 112), ((56, 84), (60, 100)), 'a cup')
    model.rollout_engine = FixedRollout([text, 'no answer'])
    answered, failed = model.test_step(batch)
    height, width = answered.ori_shape
    found = answered.pred_instances
    torch.testing.assert_close(found.bboxes, torch.tensor(
        [[width / 4, height / 2, width * 3 / 4, height]]))
    torch.testing.assert_close(found.points[0, 0], torch.tensor([width / 2, height * 3 / 4]))
    assert found.masks.shape == (1, height, width) and found.masks.dtype == torch.bool
    assert isinstance(answered.reasoning['parsed'], ReasoningOutput)
    assert answered.reasoning['response'] == text
    assert answered.reasoning['reasoning_tokens'] >= 1
    assert len(failed.pred_instances) == 0
    assert failed.pred_instances.masks.shape == (0, *failed.ori_shape)
    assert isinstance(failed.reasoning['parsed'], ParseFailure)
    assert failed.reasoning['reasoning_tokens'] is None


def test_relative_coordinates_are_read_once_and_their_text_is_kept(tiny_config, batch):
    """The same answer in either convention, of a 112-pixel model image."""
    texts = dict(
        pixels=format_response('so', (28, 56, 84, 112), ((56, 84), (28, 84)), 'a cup'),
        relative_1000=format_response('so', (250, 500, 750, 1000), ((500, 750), (250, 750)),
                                      'a cup'))
    found = {}
    for name, text in texts.items():
        model = MODELS.build(dict(tiny_config.model, policy=dict(
            tiny_config.model.policy, coordinates=name))).eval()
        model.rollout_engine = FixedRollout([text, 'no answer'] * 2)
        data = model.data_preprocessor(batch, False)
        rollout = model.rollout(**data, group_size=2)
        assert rollout.texts == [text, 'no answer'] * 2
        assert rollout.parsed[2].box == (28, 56, 84, 112)
        assert rollout.parsed[0].points == ((56, 84), (28, 84))
        model.rollout_engine = FixedRollout([text, 'no answer'])
        found[name] = model.test_step(batch)[0]
        assert found[name].reasoning['response'] == text
        assert found[name].reasoning['parsed'].box == (28, 56, 84, 112)
    pixels, relative = (found[name].pred_instances for name in texts)
    torch.testing.assert_close(relative.bboxes, pixels.bboxes)
    assert relative.masks.equal(pixels.masks)


def test_a_response_in_other_coordinates_is_not_taught(model, batch):
    data = model.data_preprocessor(batch, False)
    for sample in data['data_samples']:
        sample.set_metainfo(dict(response='a', response_coordinates='relative_1000'))
    with pytest.raises(ValueError, match="`coordinates` of `ComposeResponse` should be 'pixels'"):
        model.loss(**data)


def test_an_answer_may_name_several_objects_or_none(tiny_config, batch):
    model = MODELS.build(dict(tiny_config.model, several_objects=True)).eval()
    objects = [((28, 56, 84, 112), [(56, 84)]), ((0, 0, 56, 56), [(28, 28)])]
    model.rollout_engine = FixedRollout([format_objects_response('so', objects, 'two'),
                                         format_objects_response('so', [], 'nothing')])
    two, none = model.test_step(batch)
    height, width = two.ori_shape
    torch.testing.assert_close(two.pred_instances.bboxes, torch.tensor(
        [[width / 4, height / 2, width * 3 / 4, height], [0, 0, width / 2, height / 2]]))
    assert two.pred_instances.points.shape == (2, 1, 2)
    assert two.pred_instances.masks.shape == (2, height, width)
    assert two.pred_instances.masks.flatten(1).any(dim=1).all()
    assert isinstance(none.reasoning['parsed'], ReasoningOutput)
    assert len(none.pred_instances) == 0
    assert none.pred_instances.masks.shape == (0, *none.ori_shape)


def test_a_list_of_more_objects_than_an_answer_may_have_is_not_drawn(tiny_config, batch):
    config = dict(tiny_config.model, several_objects=True)
    with pytest.raises(ValueError, match='`max_objects` should be at least 1, but got 0'):
        MODELS.build(dict(config, max_objects=0))
    model = MODELS.build(dict(config, max_objects=2)).eval()
    entry = ((28, 56, 84, 112), [(56, 84)])
    model.rollout_engine = FixedRollout([
        format_objects_response('so', [entry] * number, 'some') for number in (2, 3)])
    two, three = model.test_step(batch)
    assert len(two.pred_instances) == 2 and len(three.pred_instances) == 0
    assert three.reasoning['parsed'].reason == 'too_many'


def test_predictions_do_not_depend_on_what_was_asked_before(model, batch):
    first = [s.reasoning['response'] for s in model.test_step(batch)]
    torch.rand(1)
    assert [s.reasoning['response'] for s in model.test_step(batch)] == first


def test_frozen_parts_stay_out_of_the_state_and_in_eval_mode(model):
    model.build_reference()
    model.train()
    assert model.policy.training
    assert not model.decoder.training and not model.reference.training
    assert not any(p.requires_grad for p in model.reference.parameters())
    state = model.state_dict()
    assert state and all(key.startswith('policy.') for key in state)
    former = {name.replace('policy.', 'reference.', 1): value for name, value in state.items()}
    for given in (state, state | former):
        report = model.load_state_dict(given)
        assert not report.missing_keys and not report.unexpected_keys


def test_a_batch_without_rollout_or_responses_has_no_loss(model, batch):
    batch['data_samples'][0].set_metainfo(dict(response='red'))  # but not the second
    for samples in (batch['data_samples'], None):
        with pytest.raises(TypeError, match='GRPOTrainLoop.*ComposeResponse'):
            model.loss(batch['inputs'], samples)


def test_a_few_steps_on_given_responses_lower_their_loss(model, batch):
    for sample, text in zip(batch['data_samples'], ('a red star', 'no'), strict=True):
        sample.set_metainfo(dict(response=text))
    optim_wrapper = OptimWrapper(torch.optim.AdamW(model.policy.parameters(), lr=1e-3))
    logs = [model.train().train_step(batch, optim_wrapper) for _ in range(4)]
    losses = [log['loss'].item() for log in logs]
    assert losses == sorted(losses, reverse=True) and losses[3] < 0.7 * losses[0]
    assert set(logs[0]) == {'loss', 'perplexity', 'response_tokens'}


def test_mode_tensor_and_features(model, batch):
    data = model.data_preprocessor(batch, False)
    assert all(isinstance(text, str) for text in model(**data, mode='tensor'))
    assert [tuple(f.shape) for f in model.extract_feat(data['inputs'])] == [(49, 128)] * 2


@pytest.fixture
def build_lora(tiny_config):
    def build(**lora):
        config = ConfigDict(tiny_config.model)
        config.policy = dict(config.policy, lora=lora) if lora else config.policy
        return MODELS.build(config)

    return build


def test_with_lora_a_checkpoint_holds_the_adapter_only(build_lora):
    model = build_lora(r=4)
    state = model.state_dict()
    assert state.keys() == {f'policy.{key}' for key in model.policy.adapter_keys | {SCALING}}
    changed = {key: torch.full_like(value, 0.5) for key, value in state.items()
               if key != f'policy.{SCALING}'}
    model.load_state_dict(changed)  # of a version that did not write the scaling
    assert all(model.state_dict()[key].eq(0.5).all() for key in changed)
    model.build_reference()
    assert model.reference is None


@pytest.mark.parametrize('saved, loaded, problem', [
    (dict(r=4), dict(r=8), r'56 of another shape \(policy.*lora_A.*\(4, 128\) instead of \(8, 128'),
    (dict(r=4, target_modules=['q_proj']), dict(r=4), r'48 missing \(policy\.model.*k_proj.*lora'),
    (dict(r=4), dict(r=4, target_modules=['q_proj']), '48 unexpected .*lora'),
    (dict(r=4), {}, '81 missing .*; 57 unexpected .*lora'),
    ({}, dict(r=4), '56 missing .*; 81 unexpected'),
])
def test_a_checkpoint_that_does_not_fit_is_refused(build_lora, saved, loaded, problem):
    """By mmengine's loader, too, which is not strict."""
    state, model = build_lora(**saved).state_dict(), build_lora(**loaded)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for load in (model.load_state_dict, lambda state: load_state_dict(model, state)):
        with pytest.raises(ValueError, match=f"'the checkpoint' do not fit the model: {problem}"):
            load(state)
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize('change', [dict(lora_alpha=16), dict(use_rslora=True),
                                    dict(alpha_pattern={'q_proj': 4})])
def test_an_adapter_of_another_scaling_is_refused(build_lora, change):
    """It has the same names and shapes."""
    state, model = build_lora(r=4).state_dict(), build_lora(r=4, **change)
    with pytest.raises(ValueError, match=r'as in its training, by 2 in model.*_proj, but scales it '
                                         r'by \d'):
        load_state_dict(model, state)
    build_lora(r=4).load_state_dict(state)


def test_a_checkpoint_that_fits_is_counted_and_one_tensor_too_few_is_not(model, monkeypatch):
    said, state = [], model.state_dict()
    monkeypatch.setattr('mmdpad.models.weights.print_log', lambda text, **_: said.append(text))
    load_state_dict(model, dict(state))
    assert said == [f"{len(state)} tensors loaded from 'the checkpoint'; none missing, unexpected "
                    f'or of another shape']
    del state['policy.model.lm_head.weight']
    with pytest.raises(ValueError, match=r'1 missing \(policy.model.lm_head.weight\)\. It should'):
        load_state_dict(model, state)


def test_unknown_settings_are_refused(tiny_config):
    config = ConfigDict(tiny_config.model)
    config.train_cfg = dict(groupsize=8)
    with pytest.raises(ValueError, match='groupsize'):
        MODELS.build(config)


class LossOfAnotherEntropy(PolicyLoss):
    entropy = 'gradient'


@pytest.mark.parametrize('loss, told', [
    (dict(type='mmdet.FocalLoss'), '`model.loss` should be GRPOLoss or .* got FocalLoss'),
    (dict(type=LossOfAnotherEntropy), "'grad' or 'no_grad', but got 'gradient'; correct the class"),
])
def test_a_loss_of_another_kind_is_refused(tiny_config, loss, told):
    with pytest.raises(ValueError, match=told):
        MODELS.build(dict(tiny_config.model, loss=loss))


TASKS = dict(segmentation=dict(type='SegmentationTask', template='find "{question}"'),
             detection=dict(type='DetectionTask', max_objects=2, template='detect: {question}'))


@pytest.fixture
def mixed_model(tiny_config):
    policy = dict(tiny_config.model.policy, prompt_template='default')
    return MODELS.build(dict(tiny_config.model, policy=policy, tasks=TASKS)).eval()


def test_each_sample_is_asked_and_read_as_its_task_says(mixed_model, batch):
    model = mixed_model
    objects = [((28, 56, 84, 112), 'Cup', 'the blue one'), ((0, 0, 9, 9), 'bird', None)]
    detected = format_detections('so', objects)
    model.rollout_engine = FixedRollout([
        format_response('so', (28, 56, 84, 112), ((56, 84), (60, 100)), 'a cup'), detected])
    batch['data_samples'][1].set_metainfo(dict(
        task='detection', classes=('plate', 'cup'), class_labels=(3, 5)))
    first, second = model.test_step(batch)
    assert (first.task, second.task) == ('segmentation', 'detection')
    assert len(first.pred_instances.masks) == 1
    found = second.pred_instances
    height, width = second.ori_shape
    torch.testing.assert_close(found.bboxes, torch.tensor(
        [[width / 4, height / 2, width * 3 / 4, height]]))
    assert found.labels.tolist() == [5] and found.descriptions == ['the blue one']
    assert 'masks' not in found and second.reasoning['invented'] == 1
    assert 'invented' not in first.reasoning


def test_rollouts_of_several_tasks(mixed_model, batch):
    model = mixed_model
    batch['data_samples'][1].set_metainfo(dict(task='detection'))
    model.rollout_engine = FixedRollout(['<think>so</think><answer>[]</answer>'] * 8)
    rollout = model.rollout(**model.data_preprocessor(batch))
    assert rollout.tasks == ['segmentation', 'detection']
    assert [type(parsed) for parsed in rollout.parsed] == [ParseFailure] * 4 + [ReasoningOutput] * 4
    texts = [model.policy.processor.tokenizer.decode(prompt.input_ids)
             for prompt in rollout.prompts]
    assert 'find "' in texts[0] and 'detect: ' in texts[1]
    batch['data_samples'][0].set_metainfo(dict(task='vqa'))
    with pytest.raises(ValueError, match=r"\(segmentation, detection\), but got 'vqa'"):
        model.encode_prompts(batch['inputs'], batch['data_samples'])


def test_the_arguments_of_a_single_task_do_not_go_with_several(tiny_config):
    with pytest.raises(ValueError, match="single task .* but got prompt_template='find "):
        MODELS.build(dict(tiny_config.model, tasks=TASKS))
