# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Parts of a config that are each valid but do not work together."""
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmdpad.engine.build import UnsuitableConfig, build_runner
from mmdpad.engine.check_config import check_config
from mmdpad.engine.check_together import _check_metrics
from mmdpad.engine.config_nodes import Node
from mmdpad.engine.hooks import MaskRewardHook
from mmdpad.engine.runner import GRPOTrainLoop
from mmdpad.registry import HOOKS, METRICS
from mmdpad.utils import override

ROOT = Path(__file__).parents[2]
DETECTOR = ROOT / 'configs/mmdet/mask-rcnn_r50_fpn_1x_coco_discrimination.py'
CLIP = dict(type='mmdpad.CLIPDiscriminator', model_name='ViT-B-32')
REWARDS = dict(thinking_format=dict(type='mmdpad.ThinkingFormatReward'))


@pytest.fixture
def detector() -> Config:
    with DefaultScope.overwrite_default_scope('mmdet'):
        return Config.fromfile(DETECTOR)


@pytest.mark.parametrize('hook', [
    dict(type='mmdpad.DiscriminativeRewardHook', discriminator=CLIP),
    dict(type='mmdpad.MaskRewardHook'),
    dict(type='mmdpad.engine.hooks.MaskRewardHook'), dict(type=MaskRewardHook)],
    ids=lambda hook: str(hook['type']))
def test_a_reward_hook_needs_our_loop(detector, hook):
    detector.custom_hooks = [hook]
    (problem, ) = check_config(detector).problems
    assert problem.startswith('`custom_hooks.0`: ') and (
        'adds a reward term to GRPOTrainLoop, but `train_cfg.type` is EpochBasedTrainLoop' in
        problem)
    with pytest.raises(UnsuitableConfig, match='remove the hook, or use that loop'):
        build_runner(detector)


def test_a_sampler_that_asks_by_signal_needs_our_loop(detector):
    detector.train_dataloader.sampler = dict(type='mmdpad.SelectiveSampler')
    (problem, ) = check_config(detector).problems
    assert problem.startswith('`train_dataloader.sampler` should not be a SelectiveSampler')
    assert '`train_cfg.type` is EpochBasedTrainLoop; use InfiniteSampler' in problem


def test_hooks_that_any_model_can_have(detector):
    detector.custom_hooks = [dict(type='mmdpad.AlarmHook'), dict(type='mmdpad.CurvesHook'),
                             dict(type='mmdpad.RolloutLogHook')]
    assert check_config(detector).problems == []


@pytest.mark.parametrize('kind', ['mmdpad.GRPOTrainLoop', GRPOTrainLoop], ids=str)
def test_our_loop_needs_a_model_that_samples(detector, kind):
    detector.train_cfg = dict(type=kind, max_iters=2, rewards=REWARDS)
    (problem, ) = check_config(detector).problems
    assert problem == (
        '`train_cfg.type` should not be GRPOTrainLoop for a model that samples no responses, but '
        "`model.type` is MaskRCNN; use ReasoningSegmentor, or mmengine's EpochBasedTrainLoop or "
        'IterBasedTrainLoop')


def test_terms_about_conversations_need_them(tiny_config):
    tiny_config.train_cfg.rewards.turns = dict(type='TurnCostReward')
    assert check_config(tiny_config).problems == [
        '`train_cfg.rewards.turns`: TurnCostReward scores conversations, but `model.conversation` '
        'is None; set it, or leave the term out']
    tiny_config.model.conversation = dict(max_turns=2)
    assert check_config(tiny_config).problems == []


def test_terms_of_a_metric_about_conversations_need_them(tiny_config):
    tiny_config.test_evaluator = dict(type='RewardMetric', rewards=dict(
        crop=dict(type='CropContainsTargetReward')))
    assert ('`test_evaluator.rewards.crop`: CropContainsTargetReward scores conversations, but '
            '`model.conversation` is None; set it, or leave the term out'
            ) in check_config(tiny_config, training=False).problems


@pytest.mark.parametrize('key, value, told', [
    ('custom_hooks', [dict(type=MaskRewardHook)],
     '`custom_hooks.0`: MaskRewardHook decodes masks with `model.decoder`, which is None'),
    ('train_cfg.rewards.mask', dict(type='QuantileReward', term=dict(type='MaskReward')),
     '`train_cfg.rewards.mask`: QuantileReward decodes masks with `model.decoder`, which is None'),
    ('val_cfg', dict(type='ReasonSegValLoop'),
     '`model.decoder` should be configured where `val_cfg` asks for masks')])
def test_masks_need_a_decoder(tiny_config, key, value, told):
    tiny_config.model.decoder = None
    assert check_config(tiny_config).problems == []
    override(tiny_config, {key: value})
    if key == 'val_cfg':
        tiny_config.val_dataloader = tiny_config.test_dataloader
        tiny_config.val_evaluator = tiny_config.test_evaluator
    problems = check_config(tiny_config).problems
    assert len(problems) == 1 and told in problems[0], problems


@pytest.mark.parametrize('attention, engine, is_wrong', [
    ('sdpa', None, True), ('eager', dict(type='SharedPrefixRollout'), True),
    ('sdpa', dict(type='HFRollout'), False), ('shared_prefix', None, False)])
def test_the_engine_fits_the_attention(tiny_config, attention, engine, is_wrong):
    tiny_config.model.policy.attn_implementation = attention
    if engine:
        tiny_config.model.rollout_engine = engine
    problems = check_config(tiny_config).problems
    assert bool(problems) == is_wrong
    assert not is_wrong or problems == [
        f"`model.rollout_engine` should not be SharedPrefixRollout with `model.policy."
        f"attn_implementation='{attention}'`; set `model.rollout_engine=dict(type='HFRollout')`"]


@pytest.mark.parametrize('best, told', [
    ('reasonseg/giou', None), ('auto', None), (['reasonseg/ciou', 'reasonseg/giou'], None),
    ('reasonseg/giuo', "did you mean 'reasonseg/giou'?"), ('coco/bbox_mAP', "('reasonseg/...'"),
    ('giou', "('reasonseg/...'")])
def test_the_best_checkpoint_is_by_a_metric_that_is_computed(tiny_config, best, told):
    for name in ('cfg', 'dataloader', 'evaluator'):
        tiny_config[f'val_{name}'] = tiny_config[f'test_{name}']
    tiny_config.val_cfg = dict(type='ReasonSegValLoop')
    tiny_config.default_hooks.checkpoint.save_best = best
    problems = check_config(tiny_config).problems
    if told is None:
        assert problems == []
    else:
        (problem, ) = problems
        assert '`default_hooks.checkpoint.save_best` should be a metric of' in problem
        assert told in problem


def test_the_names_of_every_kind_of_result_are_known():
    metrics = [dict(type='DetectionMetric'), dict(type='QuestionAnsweringMetric')]
    best = ['a/detection/f1', 'a/detection/F1', 'b/vqa/accuracy_of_color', 'b/vqa/acc',
            'detection/f1', 'a/detection/f1_low', 'a/detection/count_error']
    checkpoint = dict(type='CheckpointHook', rule='greater', save_best=best)
    nodes = [*(Node(f'val_evaluator.metrics.{number}', metric, METRICS, None)
               for number, metric in enumerate(metrics)),
             Node('default_hooks.checkpoint', checkpoint, HOOKS, None)]
    config = dict(val_cfg=dict(type='ValLoop'),
                  val_evaluator=dict(dataset_prefixes=['a', 'b'], metrics=metrics))
    assert [problem.partition('; ')[0] for problem in _check_metrics(config, nodes)] == [
        *(f'`default_hooks.checkpoint.save_best` should be a metric of {kind}, but got {name!r}'
          for kind, name in (
              ('DetectionMetric', 'a/detection/F1'), ('QuestionAnsweringMetric', 'b/vqa/acc'),
              ("`val_evaluator` ('a/detection/...', 'b/vqa/...')", 'detection/f1'))),
        "`rule` beside `default_hooks.checkpoint.save_best` should be 'less' for "
        "'a/detection/count_error', of which less is better, but got 'greater'"]


@pytest.mark.parametrize('kind, refused', [
    ('MeanDatasetsEvaluator', ['detection/f1']),
    ('MultiDatasetsEvaluator', ['detection/f1', 'mean/coco/bbox_mAP'])])
def test_means_and_metrics_over_all_data_sets_have_names(kind, refused):
    best = ['detection/f1', 'a/detection/f1', 'b/coco/bbox_mAP', 'mean/coco/bbox_mAP', 'vqa/n']
    metrics = [Node(f'val_evaluator.metrics.{place}', dict(type=name), METRICS, None)
               for place, name in (('0.0', 'DetectionMetric'), ('0.1', 'CocoMetric'),
                                   ('1.0', 'DetectionMetric'), ('1.1', 'CocoMetric'),
                                   ('2', 'QuestionAnsweringMetric'))]
    checkpoint = dict(type='CheckpointHook', rule='greater', save_best=best)
    config = dict(val_cfg=dict(type='ValLoop'),
                  val_evaluator=dict(type=kind, dataset_prefixes=['a', 'b']))
    found = list(_check_metrics(config, [
        *metrics, Node('default_hooks.checkpoint', checkpoint, HOOKS, None)]))
    assert [problem.partition('but got ')[2].partition(';')[0] for problem in found] == [
        repr(name) for name in refused]


@pytest.mark.parametrize('key, entry, told', [
    ('custom_hooks', [dict(type='EarlyStoppingHook', monitor='reasonseg/giuo', rule='greater')],
     "`custom_hooks.0.monitor` should be a metric of ReasonSegMetric, but got 'reasonseg/giuo'; "
     "did you mean 'reasonseg/giou'?"),
    ('custom_hooks', [dict(type='EarlyStoppingHook', monitor='giou', rule='greater')],
     "`custom_hooks.0.monitor` should be a metric of `val_evaluator` ('reasonseg/...', "
     "'reward/...'), but got 'giou'; correct it"),
    ('param_scheduler', [dict(type='ReduceOnPlateauLR')],
     "`param_scheduler.0.monitor` should be a metric of `val_evaluator` ('reasonseg/...', "
     "'reward/...'), but got 'loss'; correct it"),
    ('custom_hooks', [dict(type='EarlyStoppingHook', monitor='reasonseg/parse_failure_rate',
                           rule='greater')],
     "`rule` beside `custom_hooks.0.monitor` should be 'less' for 'reasonseg/parse_failure_rate', "
     "of which less is better, but got 'greater'; set it"),
    ('custom_hooks', [dict(type='EarlyStoppingHook', monitor='reasonseg/giou', rule='greater')],
     None)])
def test_a_monitor_is_a_metric_that_is_computed(tiny_config, key, entry, told):
    for name in ('cfg', 'dataloader', 'evaluator'):
        tiny_config[f'val_{name}'] = tiny_config[f'test_{name}']
    override(tiny_config, {key: entry})
    assert check_config(tiny_config).problems == ([] if told is None else [told])


@pytest.mark.parametrize('name, meant, value', [
    ('optim_wraper', 'optim_wrapper', dict(type='OptimWrapper')),
    ('param_schedular', 'param_scheduler', []), ('custom_hook', 'custom_hooks', []),
    ('trian_cfg', 'train_cfg', dict(max_iters=3)), ('default_hook', 'default_hooks', {}),
    ('val_evalutor', 'val_evaluator', dict(type='ReasonSegMetric')), ('resum', 'resume', True),
    ('load_form', 'load_from', 'x.pth')])
def test_an_entry_that_nothing_reads(tiny_config, name, meant, value):
    tiny_config[name] = value
    (problem, ) = check_config(tiny_config).problems
    assert f'`{name}` is never read' in problem and f'did you mean `{meant}`?' in problem


def test_variables_of_the_author_are_no_entries(tiny_config):
    tiny_config.update(test_pipeline=tiny_config.test_dataloader.dataset.pipeline, models=['a'],
                       val_dataloader_2=dict(batch_size=1), val_interval=3,
                       train_pipelines=tiny_config.train_dataloader.dataset.pipeline)
    assert check_config(tiny_config).problems == []


@pytest.mark.parametrize('value, told', [
    (dict(backend='nonsense'), '`compile`: Invalid backend'), ('yes', '`compile` should be'),
    (dict(mod='default'), '`compile`: '), (dict(backend='eager'), None), (True, None)])
def test_what_torch_compile_takes(tiny_config, value, told):
    override(tiny_config, dict(compile=value))
    problems = check_config(tiny_config).problems
    assert [told in problem for problem in problems] == [True] * (told is not None), problems
