# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Every value of every config, replaced by one of another kind: a line with its key, or rightly
taken."""
import random
import re
from pathlib import Path

import pytest
from config_faults import Fault, others, with_faults
from mmengine.config import Config
from mmengine.registry import FUNCTIONS
from mostly_slow import mostly_slow

from mmdpad.engine.build import UnsuitableConfig, build_runner
from mmdpad.engine.check_config import check_config
from mmdpad.engine.hooks import RewardHook
from mmdpad.preflight import dry_run
from mmdpad.registry import HOOKS
from mmdpad.utils import override

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(ROOT.glob('configs/dpad/*.py'))
FEW = ('tiny_shapes', 'tiny_shapes_sft', 'qwen7b_reasonseg', 'qwen7b_qlora_reasonseg',
       'qwen7b_fsdp_reasonseg', 'qwen7b_vllm_reasonseg')
READ = re.compile(r'(model|(train|val|test)_(dataloader|cfg|evaluator)|optim_wrapper|strategy|'
                  r'param_scheduler|(default|custom)_hooks|env_cfg|visualizer|log_processor|'
                  r'randomness|model_wrapper_cfg)$')
# What takes more than its kind, or anything.
TAKEN = (
    r'default_hooks\.checkpoint\.save_best',  # several metrics
    r'optim_wrapper\.loss_scale',  # a number is the scale itself
    r'model_wrapper_cfg\.broadcast_buffers',  # torch gives it no type
    r'param_scheduler',
    r'\w+\.dataset\.source\.pipeline\..*',  # nothing runs it
    r'\w+\.dataset\.source\.filter_cfg\..*',  # each class of mmdet reads keys of its own
)


@HOOKS.register_module(force=True)
class OfRank(RewardHook):
    """A custom hook, which the checks do not build."""

    kind, term = 'QuantileReward', 'rank'


def places(value, path=()):
    """Path of each value and what takes its place; and a key that nothing knows, in each dict."""
    items = value.items() if isinstance(value, dict) else (
        enumerate(value) if isinstance(value, (list, tuple)) else ())
    for key, item in items:
        if path or READ.match(str(key)):
            yield from (((*path, key), other) for other in others(item))
            yield from places(item, (*path, key))
    if isinstance(value, dict) and path and path[-1] not in ('rewards', 'default_hooks'):
        yield (*path, 'zzz'), 1


def untold(name, count):
    """The replacements, some or all, that are not reported as they should be."""
    config = Config.fromfile(name).to_dict()
    chosen = list(places(config))
    if count:
        chosen = random.Random(0).sample(chosen, min(count, len(chosen)))
    for path, value in chosen:
        key = '.'.join(map(str, path))
        problems = check_config(with_faults(config, Fault(path, 'type', value))).problems
        # A list is named as a whole where its entries are looked at together.
        names = {key, key.rpartition('.')[0]} if str(path[-1]).isdigit() or len(path) > 2 else {key}
        if any('\n' in problem for problem in problems):
            yield f'{key}={value!r}: more than a line: {problems}'
        elif problems and not any(name in problem for name in names for problem in problems):
            yield f'{key}={value!r}: not named: {problems}'
        elif not problems and not any(re.fullmatch(one, key) for one in TAKEN):
            yield f'{key}={value!r}: taken'


@pytest.mark.parametrize('path', mostly_slow(
    CONFIGS, fast=[ROOT / f'configs/dpad/{name}.py' for name in FEW]),
    ids=lambda path: path.stem)
def test_some_values_of_other_kinds(path):
    assert list(untold(path, count=30)) == []


@pytest.mark.slow
@pytest.mark.parametrize('path', [ROOT / f'configs/dpad/{name}.py' for name in (
    'tiny_shapes', 'tiny_shapes_sft', 'qwen7b_qlora_reasonseg', 'qwen7b_fsdp_reasonseg',
    'qwen7b_vllm_reasonseg', 'qwen7b_mask2former', 'qwen7b_sam2_reasonseg')],
    ids=lambda path: path.stem)
def test_all_values_of_other_kinds(path):
    assert list(untold(path, count=None)) == []


@pytest.mark.parametrize('key, value, told', [
    ('model.rollout_engine', dict(type='VLLMRollout', engine_options=[1]),
     '`model.rollout_engine.engine_options` should be dict or None, but got [1]'),
    ('model.rollout_engine', dict(type='VLLMRollout', engine_options=dict(dtype='half')),
     '`model.rollout_engine.engine_options.dtype` should be an argument of `VLLMRollout` itself; '
     'move it to `model.rollout_engine.dtype`'),
    ('model.rollout_engine', dict(type='VLLMRollout', sleep_level=5),
     '`model.rollout_engine.sleep_level` should be 0, 1 or 2, but got 5'),
    *(('model.rollout_engine', dict(type='VLLMServerRollout', **{'urls': ['http://a:1'], **given}),
       f'`model.rollout_engine.{told}') for given, told in (
           (dict(urls=['a:1']), 'urls` should hold addresses'),
           (dict(urls=['http://a:99999']), 'urls` should hold addresses'),
           (dict(dtype='fp16'), "dtype` should be one of 'float32', 'bfloat16', 'float16', but"),
           (dict(timeout=float('inf')), 'timeout` should be a positive number of seconds'),
           (dict(transfer=dict(foldr='x')), 'transfer.foldr`: WeightTransfer takes no argument'),
           (dict(transfer=dict(chunk_bytes='big')), 'transfer.chunk_bytes` should be int'),
           (dict(transfer=dict(address='a')), "transfer.address` is for `transfer.backend='nccl'`"),
           (dict(transfer=dict(backend='rdma')), 'transfer.backend` should be one of'))),
    ('model.loss.importance_cap', 'two',
     "`model.loss.importance_cap` should be 'auto' or float or None, but got 'two'"),
    ('model.policy.lora', dict(r='8'), "`model.policy.lora.r` should be int, but got '8'"),
    ('model.policy.lora', dict(rank=8), "got ['rank']"),
    ('model.policy.lora', 'all', "`model.policy.lora` should be dict or None, but got 'all'"),
    ('model.policy.dtype', 'bf16', "but got 'bf16'; write 'bfloat16'"),
    ('model.train_cfg.group_size', 'x', "`model.train_cfg.group_size` should be int, but got 'x'"),
    ('model.loss.kl_coef', [0.1], '`model.loss.kl_coef` should be float'),
    ('model.test_cfg.max_new_tokens', '9', '`model.test_cfg.max_new_tokens` should be int'),
    *(('model.test_cfg', dict(dict(temperature=1.0, num_samples=4), **given),
       f'`model.test_cfg.{told}') for given, told in (
           (dict(select='best'), "select` should be one of"),
           (dict(select=None), 'select` should say how to choose'),
           (dict(select='consensus', temperature=0.0), 'temperature` should be above 0'),
           (dict(select='consensus', abstain_by='best', abstain_below=0.3),
            'abstain_by` should be one of'),
           (dict(select=[(1, 'consensus'), (1, 'likelhood')]), 'select.selectors.lik'),
           (dict(select='consensus', sample=4), "sample`: sampling takes no argument"))),
    *(('model.conversation', given, f'`model.conversation{told}') for given, told in (
        (3, '` should be dict or None, but got 3'), (dict(turns=3), '` should have keys among'),
        (dict(max_turns=0), '.max_turns` should be at least 1'),
        (dict(max_tokens=9), '.max_tokens` should be at least `max_new_tokens` = 112 of one turn'),
        (dict(limits=dict(side=9)), '.limits` should have keys among'),
        (dict(limits=dict(min_pixels=10**6)), '.limits.min_pixels` of a crop should be at most'))),
    ('model.test_cfg.max_tokens', 9, '`model.test_cfg.max_tokens`: sampling takes no argument'),
    ('model.policy', dict(_delete_=True, pretrained='x'),
     '`model.policy.type` should be the name of a class, but is missing; add it: '
     '`model.policy.type=NAME`'),
    ('model.rollout_engine.max_guess', 0,
     '`model.rollout_engine.type` should be the name of a class, but is missing; add it: '
     '`model.rollout_engine.type=SharedPrefixRollout`'),
    ('model.loss', dict(_delete_=True, kl_coef=0.1), 'add it: `model.loss.type=GRPOLoss`'),
    *((f'model.{name}', True, f'`model.{name}` should be ') for name in (
        'train_cfg.group_size', 'train_cfg.temperature', 'test_cfg.max_new_tokens',
        'test_cfg.top_k', 'max_objects', 'policy.max_prompt_tokens', 'policy.memory_budget')),
    ('model.policy.max_prompt_tokens', 0,
     '`model.policy.max_prompt_tokens` should be at least 1, but got 0'),
    ('model.policy.lora', dict(r=True), '`model.policy.lora.r` should be int, but got True'),
    *(('model.rollout_engine', dict(type='SharedPrefixRollout', **{name: given}),
       f'`model.rollout_engine.{name}` should be {wanted}, but got {given}')
      for name, given, wanted in (
           ('max_guess', True, 'int'), ('max_guess', 16, r'in [0, 15] (0: off)'),
           ('prefill_tokens', 0, 'at least 1'), ('prefill_tokens', True, 'int'),
           ('max_samples', True, 'int or None'), ('max_samples', 0, 'at least 1 or None'),
           ('pass_cost', True, 'float or None'), ('pass_cost', 0, 'above 0 or None'))),
    ('train_dataloader.batch_size', 'x', '`train_dataloader.batch_size` should be int'),
    ('model.test_cfg.temperature', -1.0,
     '`model.test_cfg.temperature` should be at least 0 (0: greedy), but got -1.0'),
    ('model.test_cfg.top_p', 5, '`model.test_cfg.top_p` should be in (0, 1]'),
    ('train_cfg.updates_per_rollout', 2, 'it is called num_iterations now; write that'),
    ('custom_hooks', [dict(type='PlainCheckpointHook')],
     "but got 'PlainCheckpointHook'; it is called SafeCheckpointHook now; write that"),
    ('model.train_cfg.truncated', 'mask', "it is called model.loss.mask_truncated (True for "
     "'mask', False for 'count') now; write that"),
    ('model.train_cfg.top_p', 0, '`model.train_cfg.top_p` should be in (0, 1]'),
    ('model.train_cfg.top_k', -3, '`model.train_cfg.top_k` should be at least 0'),
    ('model.test_cfg.max_new_tokens', 0, '`model.test_cfg.max_new_tokens` should be at least 1'),
    ('model.loss.kl_coef', -1, '`model.loss.kl_coef` should be at least 0'),
    ('model.policy.memory_budget', -2.0,
     '`model.policy.memory_budget` should be a positive number of GB'),
    ('model.policy.attn_implementation', 'flash', '`model.policy.attn_implementation` should be'),
    ('train_cfg.max_iters', 0, '`train_cfg.max_iters` should be at least 1, but got 0'),
    ('train_cfg.val_interval', -1, '`train_cfg.val_interval` should be at least 1'),
    ('train_cfg.rewards.box_iou.weight', 'heavy',
     "`train_cfg.rewards.box_iou.weight` should be float, but got 'heavy'"),
    ('optim_wrapper.clip_grad.max_norm', -1.0, '`optim_wrapper.clip_grad.max_norm` should be pos'),
    ('optim_wrapper.paramwise_cfg', ['visual'], '`optim_wrapper.paramwise_cfg` should be dict'),
    ('optim_wrapper.paramwise_cfg', dict(lr_mult=0.1), '`optim_wrapper.paramwise_cfg.lr_mult`'),
    ('optim_wrapper.paramwise_cfg', dict(custom_keys=dict(visual=0.1)),
     '`optim_wrapper.paramwise_cfg.custom_keys.visual` should be dict, but got 0.1'),
    ('optim_wrapper.paramwise_cfg', dict(custom_keys=dict(visual=dict(lrmult=0.1))),
     '`optim_wrapper.paramwise_cfg.custom_keys.visual.lrmult`'),
    ('optim_wrapper.paramwise_cfg', dict(custom_keys=dict(visual=dict(lr_mult='x'))),
     '`optim_wrapper.paramwise_cfg.custom_keys.visual.lr_mult` should be float'),
    ('optim_wrapper', None, '`optim_wrapper` should be set along with'),
    ('test_evaluator', None, 'set it, or leave all three out'),
    ('train_dataloader.dataset', None, '`train_dataloader` needs the entry `dataset`'),
    ('train_dataloader.dataset._scope_', 3, '`train_dataloader.dataset._scope_` should be the sco'),
    ('train_dataloader.dataset.data_prefix', dict(img_path=3),
     '`train_dataloader.dataset.data_prefix.img_path` should be a folder, but got 3'),
    ('train_dataloader.dataset', dict(_delete_=True, type='CocoDataset', tset_mode=True),
     'did you mean `test_mode`?'),
    ('train_dataloader.dataset', dict(_delete_=True, type='CocoDataset', test_mode='no'),
     "`train_dataloader.dataset.test_mode` should be bool, but got 'no'"),
    ('train_dataloader.batch_size', None, '`train_dataloader.batch_size` should be int'),
    ('randomness.seed', -1, '`randomness.seed` should be in [0, 2**32), but got -1'),
    ('log_level', 'LOUD', "`log_level` should be 'DEBUG', 'INFO'"),
    ('log_level', 2.5, "`log_level` should be 'DEBUG', 'INFO'"),
    ('launcher', 'torch', "`launcher` should be one of ('none', 'pytorch', 'slurm', 'mpi')"),
    ('env_cfg.mp_cfg', 'x', '`env_cfg.mp_cfg` should be dict, but got'),
    ('env_cfg.mp_cfg', None, '`env_cfg.mp_cfg` should be dict, but got None'),
    ('env_cfg.mp_cfg.mp_start_method', 'fok', '`env_cfg.mp_cfg.mp_start_method` should be one of'),
    ('env_cfg.dist_cfg.bakend', 'gloo', 'did you mean `backend`?'),
    ('default_hooks.checkpoint.intervall', 5, 'did you mean `interval`?'),
    ('log_processor.window_size', 1.5, '`log_processor.window_size` should be int, but got 1.5'),
    ('strategy', dict(type='mmdpad.FSDP2Strategy', param_dtype='bf16'),
     "`strategy.param_dtype` should be one of 'float32'"),
    ('train_dataloader.workers', 1, 'did you mean `num_workers`?'),
    ('train_dataloader.batch_size', 0, '`train_dataloader`: batch_size should be a positive'),
    ('test_dataloader', dict(num_workers=0, persistent_workers=True),
     '`test_dataloader`: persistent_workers option needs num_workers > 0'),
    ('test_dataloader', dict(num_workers=0, persistent_workers=False, prefetch_factor=2),
     '`test_dataloader`: prefetch_factor option could only be specified in multiprocessing'),
    ('test_dataloader.timeout', -1, '`test_dataloader`: timeout option should be non-negative'),
    ('train_dataloader.dataset.pipeline.2', 'x',
     "`train_dataloader.dataset.pipeline.2` should be a dict with a `type`, but got 'x'"),
    ('train_dataloader.dataset.pipeline.2.size', 'x', '`train_dataloader.dataset.pipeline.2.size`'),
    ('train_dataloader.sampler.shufle', True, 'did you mean `shuffle`?'),
    ('optim_wrapper.clip_grad.max_norn', 1.0, 'did you mean `max_norm`?'),
    ('optim_wrapper.optimizer.lr', 'fast', "`optim_wrapper.optimizer.lr` should be float"),
    ('optim_wrapper.optimizer.lr', -1.0, '`optim_wrapper`: Invalid learning rate: -1.0'),
    ('optim_wrapper.optimizer.betas', [0.9], 'should have 2 entries, but got [0.9]'),
    ('param_scheduler', [dict(type='LinearLR', start_factor=2.0)],
     '`param_scheduler.0`: Starting multiplicative factor should between 0 and 1.'),
    ('visualizer', dict(type='DetLocalVisualizer', vis_bakends=[]), 'did you mean `vis_backends`?'),
    ('param_scheduler', dict(type='CosineAnnealingLR', T_max='all'), '`param_scheduler.T_max`'),
    ('default_hooks.checkpoint', 'none', "`default_hooks.checkpoint` should be a dict with"),
    ('default_hooks.logger.intervall', 1, 'did you mean `interval`?'),
    ('train_cfg.rewards.box_iou', 5, '`train_cfg.rewards.box_iou` should be a dict with a `type`'),
    ('custom_hooks.0.discriminator', 'clip', '`custom_hooks.0.discriminator` should be '),
    ('custom_hooks.0.discriminator', [], 'a list of configs, but got an empty list'),
    ('model.loss', dict(_delete_=True, type='CrossEntropyLoss'),
     '`model.loss` should be GRPOLoss or another subclass of `mmdpad.rl.PolicyLoss`, but got Cro'),
    ('custom_hooks', [dict(type='OfRank', widnow=3, term=dict(type='BoxIoUReward'))],
     '`custom_hooks.0.widnow`: QuantileReward takes no argument'),
    ('custom_hooks', [dict(type='OfRank', term=dict(type='BoxIoUReward'), window=1)],
     '`custom_hooks.0.window` should be at least 2, but got 1'),
    ('custom_hooks.0.priority', 'HIGHEST_', '`custom_hooks.0.priority` should be an int in [0, '),
    *(('model', dict(tasks=dict(cups=dict(type='DetectionTask', template='find "{question}"')),
                     box_scorer=scorer), told) for scorer, told in (
        ('likelihood', '`model.box_scorer` should be '),
        (dict(type='LikelyScorer'), 'did you mean LikelihoodScorer'),
        (dict(type='LikelihoodScorer', off='label'), 'did you mean `of`?'),
        (dict(type='LikelihoodScorer', of='text'), '`model.box_scorer.of` should be one of (\'lab'),
        (dict(type='LikelihoodScorer', calibration='a.json'), "'a.json' does not exist"),
        (dict(type='DiscriminationScorer'), "DiscriminationScorer needs the argument 'discrimin"),
        (dict(type='DiscriminationScorer', discriminator=dict(type='torch.nn.Identity'), alpha=0),
         '`temperature` and `alpha` should be positive'),
        (dict(type='CombinedScorer', scorers=[dict(type='LikelihoodScorer', of=1)] * 2),
         '`model.box_scorer.scorers.0.of` should be str, but got 1'),
        (dict(type='CombinedScorer', scorers=[]), '`model.box_scorer.scorers` should be at least'),
        (dict(type='BoxDecoder'), '`model.box_scorer.type` should be LikelihoodScorer or ano'))),
    ('model.box_scorer', dict(type='LikelihoodScorer'),
     '`model.box_scorer` scores labelled boxes, which no task of the model has (segmentation)'),
    ('test_evaluator', 5, '`test_evaluator` should be'),
    ('test_evaluator', [dict(type='RewardMetric', rewards=dict(mask=dict(type='MaskReward')))],
     '`test_evaluator.0`: `MaskReward` decodes masks with the trained model, and there is none'),
    ('env_cfg.mp_cfg.opencv_threads', 1, 'did you mean `opencv_num_threads`?'),
    ('randomness.seed', 'x', '`randomness.seed` should be int or None'),
])
def test_what_is_reported(tiny_config, key, value, told):
    override(tiny_config, {key: value})
    problems = check_config(tiny_config).problems
    assert any(told in problem for problem in problems), problems
    assert dry_run(tiny_config)[0][:len(problems)] == problems
    with pytest.raises(UnsuitableConfig) as refusal:
        build_runner(tiny_config)
    assert str(refusal.value) == '\n'.join(problems)


@pytest.mark.parametrize('key, value', [
    ('custom_hooks', [dict(type='OfRank', term=dict(type='BoxIoUReward'), window=8, weight=0.5,
                           name='ranks', priority='LOW')]),
    ('param_scheduler', [dict(type='LinearLR', start_factor=0.1, begin=0, end=5, by_epoch=False)]),
    ('optim_wrapper.optimizer.lr', 1), ('train_dataloader.num_workers', 2.0),
    ('default_hooks.timer', None), ('train_dataloader.dataset.indices', [0, 1]),
    ('optim_wrapper.paramwise_cfg', dict(bias_decay_mult=0.0)),
    ('optim_wrapper.paramwise_cfg', dict(custom_keys=dict(visual=dict(lr_mult=0.1, eps=1e-6)))),
    ('val_interval', -1), ('log_level', 10),
    ('model.loss.clip_ratio_high', 0.3), ('randomness.seed', None),
    ('model.loss.importance_cap', 'auto'), ('model.rollout_engine', dict(
        type='VLLMServerRollout', urls=['http://[::1]:8000/'], transfer=dict(timeout=60))),
    ('optim_wrapper.type', 'AmpOptimWrapper'), ('visualizer.vis_backends', [])])
def test_what_is_right_is_taken(tiny_config, key, value):
    override(tiny_config, {key: value})
    assert check_config(tiny_config).problems == []


def test_a_delete_that_deletes_nothing(tmp_path):
    """mmengine leaves it in the config, and no class takes it."""
    path = tmp_path / 'child.py'
    path.write_text(f"_base_ = ['{ROOT}/configs/dpad/tiny_shapes.py']\n"
                    "model = dict(rollout_engine=dict(_delete_=True, type='HFRollout'),\n"
                    "             loss=dict(_delete_=True, type='GRPOLoss'))")
    (problem, ) = check_config(Config.fromfile(path)).problems
    assert problem.startswith('`model.rollout_engine._delete_`: HFRollout takes no')
    assert problem.endswith('remove it, since there is no inherited dict for it to delete (in the '
                            'pure Python style, assign a new dict instead)')


def test_a_delete_among_named_parts(tiny_config):
    """As `update` of a dict leaves it, in the pure Python style."""
    tiny_config.train_cfg.rewards.update(_delete_=True)
    (problem, ) = check_config(tiny_config).problems
    assert problem.startswith('`train_cfg.rewards._delete_`: remove it, since')


def test_a_function_of_the_data_workers(tiny_config):
    """Registered, or not."""
    @FUNCTIONS.register_module()
    def start_worker(worker_id, num_workers, rank, seed, level=0):
        pass

    loader = tiny_config.train_dataloader
    loader.worker_init_fn = dict(type='start_worker', level=1)
    assert check_config(tiny_config).problems == []
    loader.worker_init_fn = dict(type='start_worker', levle=1)
    (problem, ) = check_config(tiny_config).problems
    assert 'did you mean `level`?' in problem
    loader.worker_init_fn = dict(type='start_wroker')
    (problem, ) = check_config(tiny_config).problems
    assert '.type` should be a registered function, but got' in problem


def test_what_a_test_does_not_read_may_be_wrong(tiny_config):
    tiny_config.merge_from_dict({'train_dataloader.batch_size': 'x', 'train_cfg.max_iters': 'x'})
    assert len(check_config(tiny_config).problems) == 2
    assert check_config(tiny_config, training=False).problems == []


def test_without_a_scope_names_are_those_of_mmengine(tiny_config):
    """As in the run, which looks them up in its registries only."""
    tiny_config.pop('default_scope')
    problems = check_config(tiny_config).problems
    assert problems[0] == ("`model.type` should be a registered model, but got "
                           "'ReasoningSegmentor'; did you mean mmdpad.ReasoningSegmentor?")


def test_multipliers_of_a_policy_with_tied_weights(tiny_config):
    """mmengine's constructor gives the optimizer a weight of two names twice, which torch refuses.
    """
    tiny_config.optim_wrapper.paramwise_cfg = dict(custom_keys=dict(visual=dict(lr_mult=0.1)))
    runner = build_runner(tiny_config)
    model = runner.model.policy.model
    assert model.lm_head.weight is model.get_input_embeddings().weight
    groups = runner.build_optim_wrapper(runner.optim_wrapper).param_groups
    rates = {id(weight): group['lr'] for group in groups for weight in group['params']}
    lr = tiny_config.optim_wrapper.optimizer.lr
    assert sum(len(group['params']) for group in groups) == len(rates)
    assert {rates[id(weight)] for weight in model.model.visual.parameters()} == {lr * 0.1}
    assert rates[id(model.lm_head.weight)] == lr
