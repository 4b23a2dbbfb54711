# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Predictions of which one of several answers is chosen."""
import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from test_reasoning_segmentor import TASKS, FixedRollout

from mmdpad.geometry.mask_iou import score_mask, union_of
from mmdpad.models.segmentors.settings import evaluation_sampling
from mmdpad.models.selectors import Asked, ConsensusSelector
from mmdpad.prompts import format_question_answer, format_response
from mmdpad.registry import MODELS
from mmdpad.structures import ParseFailure, ReasoningOutput

POINTS = ((56, 84), (60, 100))


def boxed(x2, caption='a cup', x1=28):
    return format_response('so', (x1, 56, x2, 112), POINTS, caption)


class Written(FixedRollout):
    """Also ahead."""

    def sample(self, head, prompts, how):
        assert how.group_size * len(prompts) == len(self.texts)
        return self(head, prompts)


@pytest.fixture
def build(tiny_config):
    def build(texts=None, **test_cfg):
        model = dict(tiny_config.model, decoder=dict(type='BoxDecoder'), test_cfg=dict(dict(
            num_samples=3, select='consensus', max_new_tokens=8), **test_cfg))
        if 'tasks' in test_cfg:
            model |= dict(tasks=model['test_cfg'].pop('tasks'),
                          policy=dict(model['policy'], prompt_template='default'))
        built = MODELS.build(model).eval()
        if texts is not None:
            built.rollout_engine = Written(texts)
        return built

    return build


@pytest.fixture
def samples(tiny_config):
    """Six samples, each a batch of its own."""
    return [*Runner.build_dataloader(dict(tiny_config.test_dataloader, batch_size=1))]


def joined(batches):
    """Some batches as one."""
    return pseudo_collate([
        dict(inputs={name: values[0] for name, values in one['inputs'].items()},
             data_samples=one['data_samples'][0]) for one in batches])


def without_targets(sample):
    """The row of a sample whose question has no target."""
    row = sample.to_dict()
    row['gt_instances']['masks'] = row['gt_instances']['masks'].to_ndarray()[:0] if hasattr(
        row['gt_instances']['masks'], 'to_ndarray') else row['gt_instances']['masks'][:0]
    return row


def test_the_chosen_answer_is_the_prediction(build, samples):
    model = build([boxed(84), boxed(60), boxed(88), 'none', boxed(40, 'b'), 'none'])
    batch, = model.answer_ahead([joined(samples[:2])])
    first, second = model.test_step(batch)
    found = first.selection
    assert found.chosen == 0 and found.value == found.scores[0] == found.scores.max()
    overlaps = [[float(np.sum(a & b) / np.sum(a | b)) for b in masks] for masks in [[
        union_of(one.instances.masks) for one in found.candidates]] for a in masks]
    np.testing.assert_allclose(found.overlaps, overlaps)
    assert first.pred_instances.masks is found.candidates[0].instances.masks
    assert first.reasoning['response'] == found.candidates[0].response
    assert first.reasoning['parsed'].caption == 'a cup'
    assert first.reasoning['caption_tokens'] == model.policy.count_tokens('a cup')
    assert {'response', 'truncated', 'parsed', 'reasoning_tokens', 'caption_tokens', 'seconds'
            } == {*first.reasoning}
    assert {*found.seconds} == {'sample', 'decode', 'select'} and found.greedy is None
    assert second.selection.chosen == 1 and second.reasoning['parsed'].caption == 'b'
    assert not any('sampled_responses' in sample for sample in (first, second))


def test_if_no_value_is_high_enough_there_is_no_answer(build, samples):
    """Nor if none can be used. An empty mask is right where there is no target."""
    texts = [boxed(84), boxed(40), 'none'] + ['none'] * 3
    first, second = build(texts, abstain_below=0.9).test_step(joined(samples[:2]))
    for sample in (first, second):
        assert sample.selection.chosen is None and len(sample.pred_instances) == 0
        parsed = sample.reasoning['parsed']
        assert isinstance(parsed, ParseFailure) and parsed.reason == 'abstained'
    assert 'the best of 3 answers has the value 0.' in first.reasoning['parsed'].detail
    assert 'the best of 3 answers has no value by' in second.reasoning['parsed'].detail
    assert first.reasoning['response'] == first.selection.candidates[0].response
    assert score_mask(first.to_dict(), 'target')[2]['iou'] == 0
    assert score_mask(without_targets(first), 'target')[2]['iou'] == 1

    _, unusable = build(texts).test_step(joined(samples[:2]))
    assert unusable.selection.chosen == 0
    assert unusable.reasoning['parsed'].reason == 'no_answer'


def test_another_selector_may_say_whether_to_abstain(build, samples):
    """By its value of the answer that was chosen, here the first of equal scores, which agrees
    least with the others: widths of 32, 56 and 60, so (32 / 56 + 32 / 60) / 2."""
    texts = [boxed(60), boxed(84), boxed(88)]
    how = dict(select='decoder_score', abstain_by='consensus')
    answered, = build(texts, abstain_below=0.4, **how).test_step(samples[0])
    found = answered.selection
    assert found.chosen == 0 and found.value == found.scores[0] == found.scores[1]
    assert found.confidence == found.overlaps[0, 1:].mean() == pytest.approx(0.55, abs=0.05)
    assert found.overlaps[1, [0, 2]].mean() > 0.7
    rejected, = build(texts, abstain_below=0.7, **how).test_step(samples[0])
    assert rejected.selection.chosen is None and len(rejected.pred_instances) == 0
    assert "by the selector 'consensus', and should have at least 0.7" in (
        rejected.reasoning['parsed'].detail)


def test_what_two_selectors_share_is_measured_once(build):
    choice = build(select='likelihood', abstain_below=0.1,
                   abstain_by=[(0.5, 'likelihood'), (1, 'consensus')]).choice
    assert [part.name for part in choice.parts] == ['likelihood', 'consensus']
    assert choice.needs_policy and not build(abstain_below=0.1, abstain_by=dict(
        type='ConsensusSelector', vote=True)).choice.needs_policy
    assert choice.describe()['abstain_by']['selectors']['likelihood'][0] == 0.5


def test_a_vote_for_no_pixel_is_the_answer_that_there_is_no_target(build, samples):
    vote = dict(type='ConsensusSelector', vote=True)
    sample, = build([boxed(20, x1=0), boxed(60, x1=40), boxed(100, x1=80)],
                    select=vote).test_step(samples[0])
    assert sample.reasoning['parsed'].objects == () and len(sample.pred_instances) == 0
    assert len(sample.selection.candidates[sample.selection.chosen].instances) == 1
    assert score_mask(without_targets(sample), 'target')[2]['iou'] == 1


def test_answers_in_words(build, samples):
    said = [format_question_answer('so', text, [(0, 0, 9, 9)], 'it') for text in (
        'red', 'blue', 'Blue.')]
    model = build(said, tasks=dict(answering=dict(type='QuestionAnsweringTask')))
    sample, = model.test_step(samples[0])
    assert sample.selection.chosen == 1 and sample.reasoning['parsed'].answer == 'blue'
    assert 'masks' not in sample.pred_instances and len(sample.pred_instances) == 1
    assert sample.reasoning['invented'] == 0


@pytest.mark.parametrize('how', [
    dict(select='decoder_score'),
    dict(select='likelihood', abstain_by='decoder_score', abstain_below=0.3)])
def test_a_selector_that_a_task_cannot_have(build, how):
    with pytest.raises(ValueError, match="for the selector 'decoder_score', but .* do not"):
        build(tasks=TASKS, **how)


def ids_of(samples):
    return [[one.response_ids.tolist() for one in sample.selection.candidates]
            for sample in samples]


def test_the_same_answers_in_any_batch(build, samples):
    """The first of N are those of a smaller N, and equal numbers come from one call and ahead."""
    model = build(num_samples=4, select='likelihood', compare_greedy=True)
    not_asked = copy.deepcopy(samples)  # a batch keeps the responses that were sampled ahead
    single = [sample for batch in model.answer_ahead(samples) for sample in model.test_step(batch)]
    expected = ids_of(single)
    assert len({tuple(ids) for group in expected for ids in group}) > 6
    batches = [joined(samples[:4]), joined(samples[4:])]
    again = [sample for batch in model.answer_ahead(batches) for sample in model.test_step(batch)]
    assert ids_of(again) == expected
    for one, other in zip(single, again, strict=True):
        torch.testing.assert_close(one.selection.scores, other.selection.scores, equal_nan=True)
        assert one.selection.greedy.response == other.selection.greedy.response
    fewer = build(num_samples=2, select='likelihood').test_step(joined(not_asked))
    assert ids_of(fewer) == [group[:2] for group in expected]
    greedy = build(num_samples=None, select=None, temperature=0.0).test_step(joined(not_asked))
    assert [sample.reasoning['response'] for sample in greedy] == [
        sample.selection.greedy.response for sample in single]


def test_recorded_log_probabilities_are_those_of_a_pass(build, samples):
    """Up to rounding; at another temperature they are not taken."""
    model = build(num_samples=2, select='likelihood')
    model.rollout_engine.records_log_probs = True
    drawn = [replace(one, parsed=ReasoningOutput(None, None, ()))  # usable
             for one in model.test_step(samples[0])[0].selection.candidates]
    batch = samples[0]
    prompt, = model.encode_prompts(batch['inputs'], batch['data_samples'])
    asked = [Asked(batch['inputs']['model_image'][0], some, prompt) for some in (
        drawn, [replace(one, mean_logp=None) for one in drawn])]
    recorded, passed = model.choice.selector.measure(asked, model.policy)
    assert (recorded < 0).all() and (recorded != passed).any()
    np.testing.assert_allclose(recorded, passed, rtol=1e-4)
    warm = build(num_samples=2, select='likelihood', temperature=0.7)
    warm.rollout_engine.records_log_probs = True
    assert warm.test_step(samples[0])[0].selection.candidates[0].mean_logp is None


@pytest.mark.parametrize('test_cfg, told', [
    (dict(select='consensus'), "`test_cfg.num_samples` should be set where `test_cfg.select` is "),
    (dict(abstain_below=0.0), '`test_cfg.num_samples` should be set where `test_cfg.abstain'),
    (dict(num_samples=8), "`test_cfg.select` should say how to choose among .* = 8 answers"),
    (dict(num_samples=8, select='consensus', temperature=0.0),
     '`test_cfg.temperature` should be above 0 where `test_cfg.num_samples` is 8'),
    (dict(num_samples=1, select='consensus'), '`test_cfg.num_samples` should be at least 2'),
    (dict(num_samples=1, select=[(1, 'likelihood'), (2, 'consensus')]), 'should be at least 2'),
    (dict(num_samples=1, select=dict(type=ConsensusSelector)), 'should be at least 2'),
    (dict(num_samples=1, select=dict(type='mmdpad.ConsensusSelector')), 'should be at least 2'),
    (dict(num_samples=0, select='consensus'), '`test_cfg.num_samples` should be at least 1'),
    (dict(num_samples=2.5, select='likelihood'), '`test_cfg.num_samples` should be a whole number'),
    (dict(num_samples=2, select='likelihood', abstain_below=float('nan')),
     '`test_cfg.abstain_below` should be a finite number or None'),
    (dict(abstain_by='consensus'), '`test_cfg.num_samples` should be set where `test_cfg.abstain'),
    (dict(num_samples=2, select='likelihood', abstain_by='consensus'),
     "`test_cfg.abstain_below` should be set where `test_cfg.abstain_by` is 'consensus'"),
    (dict(num_samples=1, select='likelihood', abstain_by='consensus', abstain_below=0.3),
     'should be at least 2 .* or another `abstain_by`'),
    (dict(num_samples=2, select='likelihood', abstain_by='best', abstain_below=0.3),
     "`test_cfg.abstain_by` should be one of .* but got 'best'"),
    (dict(num_samples=2, select='likelihood', compare_greedy='yes'),
     "`test_cfg.compare_greedy` should be True or False, but got 'yes'")])
def test_settings_that_contradict_each_other(test_cfg, told):
    with pytest.raises(ValueError, match=told):
        evaluation_sampling(test_cfg)


def test_what_a_rollout_engine_gets():
    assert evaluation_sampling(dict(num_samples=8, select='consensus', abstain_below=0)) == dict(
        group_size=8, temperature=1.0, max_new_tokens=1024)
    assert evaluation_sampling(dict(num_samples=1, select='likelihood', temperature=0)) == dict(
        group_size=1, temperature=0, max_new_tokens=1024)
    assert evaluation_sampling({}) == dict(temperature=0.0, max_new_tokens=1024)
