# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Weights in parts over processes: the same training, the same checkpoints."""
import json
import math
import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from launching import (
    FSDP2,
    NOISE,
    farthest,
    launch,
    run_here,
    weights_of,
)
from mmengine.runner import Runner
from vowel_reward import VowelReward

from mmdpad.engine.build import UnsuitableConfig, build_runner
from mmdpad.engine.runner import grpo_loop
from mmdpad.engine.strategies import FSDP2Strategy, merge_shards, read_weights
from mmdpad.engine.strategies.fsdp2_strategy import _map, _parts_of_other_dtypes
from mmdpad.models.heads.lora import SCALING
from mmdpad.toy.policy_folder import make_policy_folder

HERE_FIRST = os.pathsep.join([str(Path(__file__).parent), os.environ.get('PYTHONPATH', '')])


def log_of(config):
    """The lines of a run's log."""
    (path, ) = Path(config.work_dir).glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_parts_make_the_weights_of_one_process(make_config, tmp_path):
    """Two processes, which validate, too, and recompute some layers; what they wrote is merged, and
    one process resumes it as its own."""
    whole = run_here(make_config('one', iterations=3))
    config = make_config('parts', processes=2, strategy=FSDP2, log_level='INFO', **{
        'train_cfg.val_interval': 2, 'model.policy.memory_budget': 0.03})
    config.val_cfg = dict(type='ReasonSegValLoop')
    config.val_dataloader, config.val_evaluator = config.test_dataloader, config.test_evaluator
    launch(config, 2)
    assert 'reasonseg/giou' in log_of(config)[-1]
    (log, ) = Path(config.work_dir).glob('*/*.log')
    assert re.search('memory_budget: of 4 layers, [0-3] keep .* of 0.03 GB$', log.read_text(), re.M)
    folder = Path(config.work_dir, 'iter_2.pth')
    assert sorted(file.name for file in folder.iterdir()) == [
        'plain.pth', *(f'shard-{n:05d}-model-00001-of-00001.safetensors' for n in (1, 2))]
    merged = merge_shards(folder)
    assert farthest(merged['state_dict'], weights_of(tmp_path / 'one/iter_2.pth')) < 1e-12

    torch.save(merged, tmp_path / 'merged.pth')
    for written in (folder, tmp_path / 'merged.pth'):
        state = read_weights(written)
        assert state.keys() == merged['state_dict'].keys()
        assert farthest(state, merged['state_dict']) == 0
    resumed = make_config('resumed', iterations=3, load_from=str(tmp_path / 'merged.pth'),
                          resume=True)
    assert farthest(run_here(resumed), whole) < 1e-12


def test_what_parts_of_a_checkpoint_share_stays_shared():
    """mmengine compares the metainfo of several data sets, which share `cumulative_sizes`, by
    pickles."""
    sizes = [4, 8]
    meta = [dict(classes=(name, ), cumulative_sizes=sizes) for name in 'ab']
    mapped = _map(dict(meta=meta, number=1), lambda value: 2 if value == 1 else value)
    assert mapped == dict(meta=meta, number=2)
    assert pickle.dumps(mapped['meta']) == pickle.dumps(meta)
    nested = [[1, (1, 3)], OrderedDict(x=1)]
    assert _map(nested, lambda value: value + 1) == [[2, (2, 4)], dict(x=2)]


@pytest.mark.slow
def test_several_data_sets_are_the_same_ones_on_resume(make_config, tmp_path):
    config = make_config('parts', processes=2, strategy=FSDP2, log_level='INFO')
    one = config.train_dataloader.dataset
    config.train_dataloader.dataset = dict(type='mmdet.ConcatDataset', datasets=[
        one, dict(one, metainfo=dict(classes=('another', )))])
    launch(config, 2)
    config.update(resume=True, work_dir=str(tmp_path / 'resumed'),
                  load_from=str(Path(config.work_dir, 'iter_1.pth')))
    launch(config, 2)
    (log, ) = Path(config.work_dir).glob('*/*.log')
    assert 'resumed epoch' in log.read_text()
    assert 'The dataset metainfo from the resumed checkpoint is different' not in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize('lora', [None, dict(r=4, lora_alpha=8)], ids=['all', 'lora'])
@pytest.mark.parametrize('family, side', [('qwen3_vl_moe', 128), ('qwen3_5', 128),
                                          ('qwen3_5_moe', 128), ('glm4v', 112),
                                          ('glm4v_moe', 112)])
def test_parts_of_a_family_make_the_weights_of_one_process(make_config, tmp_path, family, side,
                                                           lora):
    """Each is gathered layer by layer, all experts of a layer together; losses are the same, and
    two processes resume what they wrote."""
    folder = small_images(make_policy_folder(tmp_path / 'policy', family))
    changes = {'model.policy.pretrained': folder, 'model.policy.lora': lora}
    for part in ('train', 'test'):
        changes[f'{part}_dataloader.dataset.pipeline.2.size'] = (side, side)

    def learning(*arguments, **more):
        config = make_config(*arguments, **changes, **more)
        config.train_cfg.rewards = dict(vowels=dict(type=VowelReward.__name__))
        # Adam would make full steps of gradients that are rounding.
        config.optim_wrapper.optimizer = dict(type='SGD', lr=0.1, momentum=0.9)
        config.custom_imports = dict(imports=['vowel_reward'])
        return config

    configs = [learning('one', iterations=3), learning('stopped', 2, strategy=FSDP2),
               learning('parts', 2, iterations=3, strategy=FSDP2)]
    whole = run_here(configs[0])
    launch(configs[1], 2, PYTHONPATH=HERE_FIRST)
    launch(configs[2], 2, '--resume', str(tmp_path / 'stopped/iter_2.pth'), PYTHONPATH=HERE_FIRST)
    parts = merge_shards(Path(configs[2].work_dir, 'iter_3.pth'))['state_dict']
    first = weights_of(tmp_path / 'one/iter_1.pth')
    assert farthest(whole, first) > 1e-3
    assert farthest(parts, whole) < 1e-6
    logs = [[line[name] for line in log_of(config) for name in ('loss', 'kl', 'grad_norm')]
            for config in configs]
    assert logs[1] + logs[2] == pytest.approx(logs[0], rel=1e-4) and min(logs[0][2::3]) > 0.01


def test_trained_weights_of_another_type_are_gathered_by_themselves():
    layer = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2).double())
    assert _parts_of_other_dtypes(layer) == [layer[1]]
    layer[1].requires_grad_(False)
    assert _parts_of_other_dtypes(layer) == []


def small_images(folder):
    """Let its processor keep images of 128 x 128."""
    path = Path(folder, 'preprocessor_config.json')
    content = json.loads(path.read_text())
    content['size'] = dict(content['size'], shortest_edge=64 * 64)
    path.write_text(json.dumps(content))
    return folder


@pytest.mark.slow
def test_rollouts_sampled_ahead_by_parts(make_config):
    """The same training and effective sample sizes as of one process; recorded log-probabilities
    are float32."""
    changes = {'train_cfg.max_staleness': 1, 'model.rollout_engine':
               dict(type='SharedPrefixRollout', records_log_probs=True)}
    configs = [make_config('one', iterations=4, **changes),
               make_config('parts', 2, 4, strategy=FSDP2, **changes)]
    whole = run_here(configs[0])
    launch(configs[1], 2)
    parts = merge_shards(Path(configs[1].work_dir, 'iter_4.pth'))['state_dict']
    assert farthest(parts, whole) < 1e-6
    logs = [[line[name] for line in log_of(config)
             for name in ('staleness', 'ess/tokens', 'ess/sequences')] for config in configs]
    assert len(logs[0]) == 12 and logs[1] == pytest.approx(logs[0], rel=1e-5)
    assert logs[0][::3] == [0, 1, 1, 1] and logs[0][-1] < 0.9999


@pytest.mark.slow
@pytest.mark.parametrize('lora', [None, dict(r=4, lora_alpha=8)], ids=['all', 'lora'])
def test_an_engine_with_its_own_copy_gets_a_weight_at_a_time(make_config, lora):
    """The policy is not gathered for it; the training is that of one process."""
    changes = {'model.policy.lora': lora} if lora else {}
    whole = run_here(make_config('one', **changes))
    config = make_config('parts', 2, strategy=FSDP2, **changes,
                         **{'model.rollout_engine': dict(type='CopyingRollout')})
    config.custom_imports = dict(imports=['copying_rollout'])
    launch(config, 2, PYTHONPATH=HERE_FIRST)
    parts = merge_shards(Path(config.work_dir, 'iter_2.pth'))['state_dict']
    assert farthest(parts, whole) < NOISE[bool(lora)]


@pytest.mark.slow
@pytest.mark.parametrize('lora', [None, dict(r=4, lora_alpha=8)], ids=['all', 'lora'])
def test_resumes_on_another_number_of_processes(make_config, tmp_path, lora):
    """From parts of two processes on one and on four, which write one file and keep the weights of
    a layer between its passes."""
    changes = {'model.policy.lora': lora} if lora else {}
    whole = run_here(make_config('one', iterations=3, **changes))
    config = make_config('parts', processes=2, strategy=FSDP2, **changes)
    launch(config, 2)
    for processes in (1, 4):
        config = make_config(
            f'on{processes}', processes, iterations=3, **changes,
            strategy=dict(FSDP2, full_state_dict=True, reshard_after_forward=False))
        launch(config, processes, '--resume', str(tmp_path / 'parts/iter_2.pth'))
        state = weights_of(Path(config.work_dir, 'iter_3.pth'))
        assert farthest(state, whole) < NOISE[bool(lora)]
        assert bool(lora) == all('.lora_' in name or name == f'policy.{SCALING}' for name in state)


@pytest.mark.slow
@pytest.mark.parametrize('strategy', [None, FSDP2, dict(FSDP2, full_state_dict=True)],
                         ids=['ddp', 'parts', 'file'])
def test_resumed_by_two_processes_with_another_learning_rate_and_schedule(make_config, tmp_path,
                                                                          strategy):
    """As one process does."""
    def changed(*arguments, **changes):
        config = make_config(*arguments, **changes)
        config.param_scheduler = dict(type='CosineAnnealingLR', by_epoch=False)
        return config

    config = changed('stopped', 2, strategy=strategy)
    lr = config.optim_wrapper.optimizer.lr
    launch(config, 2)
    changes = {'iterations': 3, 'optim_wrapper.optimizer.lr': lr / 2}
    config = changed('resumed', 2, strategy=strategy, **changes)
    launch(config, 2, '--resume', str(tmp_path / 'stopped/iter_2.pth'))
    log = '\n'.join(path.read_text() for path in (tmp_path / 'resumed').glob('*/*.log'))
    assert f'lr {lr} of the checkpoint -> {lr / 2} of the config' in log
    assert 'param_scheduler.T_max 2 of the checkpoint -> 3 of the config' in log
    (line, ) = next((tmp_path / 'resumed').glob('*/vis_data/scalars.json')).read_text().splitlines()
    assert json.loads(line)['lr'] == pytest.approx(lr / 2 * (1 + math.cos(2 / 3 * math.pi)) / 2)

    run_here(changed('one', 1))
    expected = run_here(changed('two', 1, resume=True, **changes,
                                    load_from=str(tmp_path / 'one/iter_2.pth')))
    assert farthest(read_weights(tmp_path / 'resumed/iter_3.pth'), expected) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize('strategy', [None, FSDP2], ids=['ddp', 'parts'])
@pytest.mark.parametrize('name', ['grpo', 'supervised'])
def test_logits_that_are_not_finite_on_one_process_end_both(make_config, tiny_sft_config, strategy,
                                                            name):
    config = make_config('nan', 2, strategy=strategy)
    if name == 'supervised':
        tiny_sft_config.strategy = strategy
        config = tiny_sft_config
    config.custom_hooks = [*config.get('custom_hooks', []), dict(type='SpoilingHook')]
    config.custom_imports = dict(imports=['spoiling_hook'])
    result = launch(config, 2, check=False, PYTHONPATH=HERE_FIRST)
    assert result.returncode not in (0, None)
    output = result.stdout + result.stderr
    assert 'The first output that is not finite comes from `model.visual.' in output
    assert 'The prompt: question' in output


@pytest.mark.slow
def test_the_reference_of_a_run_that_began_with_parts(make_config, tmp_path):
    """It is the policy that was loaded, in a resumed run, too."""
    changes = dict(strategy=FSDP2, load_from=str(tmp_path / 'first/iter_1.pth'))
    launch(make_config('first', 2, iterations=1, strategy=FSDP2), 2)
    launch(make_config('whole', 2, **changes), 2)
    stopped = make_config('stopped', 2, iterations=1, **changes)
    launch(stopped, 2)
    launch(make_config('stopped', 2, **changes), 2, '--resume')
    ends = [read_weights(tmp_path / name / 'iter_2.pth') for name in ('whole', 'stopped')]
    assert farthest(*ends) < 1e-12
    logs = [[json.loads(line) for path in sorted((tmp_path / name).glob('*/vis_data/scalars.json'))
             for line in path.read_text().splitlines()] for name in ('whole', 'stopped')]
    assert logs[0][-1]['kl'] == pytest.approx(logs[1][-1]['kl'], rel=1e-9) != 0


@pytest.mark.slow
def test_a_reference_in_parts_follows_the_policy(make_config, tmp_path):
    """As that of one process, in a resumed run and with gathered weights, too."""
    changes = dict(custom_hooks=[dict(type='SyncReferenceHook', interval=1, mixup_alpha=0.5)])
    expected = run_here(make_config('one', iterations=3, **changes))
    changes['strategy'] = dict(FSDP2, reshard_after_forward=False)
    launch(make_config('parts', 2, **changes), 2)
    launch(make_config('parts', 2, iterations=3, **changes), 2, '--resume')
    folder = tmp_path / 'parts/iter_3.pth'
    assert farthest(read_weights(folder), expected) < 1e-12
    one = torch.load(tmp_path / 'one/iter_3.pth', weights_only=True)
    assert farthest(merge_shards(folder)['reference'], one['reference']) < 1e-12


@pytest.mark.slow
def test_a_frozen_tower_that_the_reference_shares(make_config, tmp_path):
    """Checkpoints name it once, and two processes resume from one and one from two; from an older
    checkpoint, too, which named it twice."""
    changes = {'model.policy.freeze_vision': True}
    whole = run_here(make_config('one', iterations=3, **changes))
    launch(make_config('parts', 2, strategy=FSDP2, **changes), 2)
    folder = tmp_path / 'parts/iter_2.pth'
    merged = merge_shards(folder)
    shared = {name.replace('policy.', 'reference.', 1): name for name in whole if 'visual' in name}
    assert shared and merged['state_dict'].keys() == whole.keys()

    merged['state_dict'] |= {name: merged['state_dict'][own] for name, own in shared.items()}
    torch.save(merged, tmp_path / 'merged.pth')  # before the file changes to which it is mapped
    plain = torch.load(folder / 'plain.pth', weights_only=False)
    torch.save(dict(plain, tied=plain['tied'] | shared), folder / 'plain.pth')
    assert merge_shards(folder)['state_dict'].keys() == whole.keys()
    resumed = make_config('resumed', iterations=3, resume=True,
                          load_from=str(tmp_path / 'merged.pth'), **changes)
    assert farthest(run_here(resumed), whole) < 1e-12
    for name, checkpoint in dict(older=folder, from_one=tmp_path / 'one/iter_2.pth').items():
        config = make_config(name, 2, iterations=3, strategy=FSDP2, **changes)
        launch(config, 2, '--resume', str(checkpoint))
        assert farthest(read_weights(tmp_path / name / 'iter_3.pth'), whole) < 1e-12


@pytest.mark.slow
def test_bfloat16_passes_over_float32_masters(make_config, tmp_path):
    """Weights and optimizer on the CPU, a validation after each step."""
    config = make_config('half', processes=2, strategy=dict(
        FSDP2, param_dtype='bfloat16', reduce_dtype='float32', cpu_offload=True),
        **{'model.policy.dtype': 'float32', 'train_cfg.val_interval': 1})
    config.val_dataloader, config.val_cfg = config.test_dataloader, dict(type='ReasonSegValLoop')
    config.val_evaluator = dict(type='ReasonSegMetric', ignore_regions='target')
    launch(config, 2)
    state = merge_shards(tmp_path / 'half/iter_2.pth')['state_dict']
    start = run_here(make_config('one', iterations=2, **{'model.policy.dtype': 'float32'}))
    assert all(value.dtype == torch.float32 for value in state.values())
    assert 0 < farthest(state, start) < 1e-3  # AdamW takes steps of at most about lr = 2e-4


@pytest.mark.slow
def test_adapters_over_sharded_bfloat16_weights_stay_float32(make_config, tmp_path):
    config = make_config('half', processes=2, strategy=dict(
        FSDP2, param_dtype='bfloat16', reduce_dtype='float32'), **{
            'model.policy.dtype': 'bfloat16', 'model.policy.lora': dict(r=4, lora_alpha=8)})
    launch(config, 2)
    first, second = (merge_shards(tmp_path / f'half/iter_{n}.pth') for n in (1, 2))
    state = second['state_dict']
    assert {value.dtype for value in state.values()} == {torch.float32}
    moved = [(value != first['state_dict'][name]).float().mean() for name, value in state.items()
             if 'lora_' in name]
    assert len(moved) == len(state) - 1 and min(moved) > 0.99  # beside the adapter's scaling


@pytest.mark.parametrize('name, known', [('bf16', "write 'bfloat16'"), ('half', "'float16'")])
def test_types_of_passes_are_named(name, known):
    with pytest.raises(ValueError, match=f'`strategy.param_dtype` should be one of .*{known}'):
        FSDP2Strategy(param_dtype=name)


def test_passes_of_no_weight_change_nothing(make_config, monkeypatch):
    configs = [make_config('plain'), make_config('filled')]
    plain = run_here(configs[0])
    monkeypatch.setattr(grpo_loop, 'is_sharded', lambda model: True)
    monkeypatch.setattr(grpo_loop, 'all_gather_object',
                        lambda value: [value + 2 if type(value) is int else value])
    assert farthest(run_here(configs[1]), plain) < 1e-12
    expected, logs = ([line[name] for line in log_of(config) for name in ('loss', 'kl', 'entropy')]
                      for config in configs)
    assert logs == pytest.approx(expected, rel=1e-9) and all(expected[-3:])


@pytest.mark.slow
def test_adapters_over_sharded_weights_of_4_bits(make_config):
    """The same training as of one process."""
    changes = {'model.policy.dtype': 'float32', 'model.policy.lora': dict(r=4),
               'model.policy.quantization': dict(load_in_4bit=True, bnb_4bit_quant_type='nf4',
                                                 bnb_4bit_compute_dtype='float32')}
    whole = run_here(make_config('one', **changes))
    config = make_config('parts', 2, strategy=FSDP2, **changes)
    launch(config, 2)
    parts = merge_shards(Path(config.work_dir, 'iter_2.pth'))['state_dict']
    assert farthest(parts, whole) < NOISE[True]


def test_weights_of_8_bits_are_refused_before_they_are_read(make_config):
    with pytest.raises(UnsuitableConfig, match='should not have 8-bit weights under `FSDP2'):
        build_runner(make_config('wrong', strategy=FSDP2, **{
            'model.policy.lora': dict(r=4), 'model.policy.quantization': dict(load_in_8bit=True)}))


@pytest.mark.parametrize('strategy, error', [
    (dict(type='DeepSpeedStrategy'), 'Leave `strategy` out'),
    (FSDP2, 'dist_train.sh')])
def test_what_cannot_run_says_so(make_config, strategy, error):
    with pytest.raises((ValueError, RuntimeError), match=error):
        build_runner(make_config('wrong', strategy=strategy))


@pytest.mark.parametrize('read', [merge_shards, read_weights])
def test_merging_wants_a_folder_of_parts(tmp_path, read):
    with pytest.raises(FileNotFoundError, match='plain.pth'):
        read(tmp_path)


def test_without_a_strategy_it_is_the_ordinary_runner(make_config):
    assert type(build_runner(make_config('plain'))) is Runner
