# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A run that is killed again and again ends bit by bit as one that was left alone."""
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import torch
from mmengine.config import Config

from mmdpad.engine.strategies import merge_shards
from mmdpad.preflight.smoke import make_smoke_config
from mmdpad.utils import read_jsonl

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow
FSDP2 = dict(type='mmdpad.FSDP2Strategy')
TIMES = re.compile(r'time|tokens_per_second|memory|eta|data_time')


@pytest.fixture
def config(shapes_data) -> Config:
    """The toy model with all that a run remembers: a reference, refills, a term with a window, a
    schedule, workers, validations between checkpoints, guesses from earlier rollouts."""
    return resumable('tiny_shapes', shapes_data)


def resumable(name: str, shapes_data: Path) -> Config:
    config = Config.fromfile(HERE.parents[2] / f'configs/dpad/{name}.py')
    config.merge_from_dict({
        'train_dataloader.batch_size': 2, 'train_cfg.max_iters': 12, 'train_cfg.val_interval': 3,
        'model.train_cfg.group_size': 3, 'model.train_cfg.max_new_tokens': 60,
        'model.test_cfg.max_new_tokens': 60, 'default_hooks.checkpoint.interval': 2,
        'default_hooks.logger.interval': 1})
    config.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    for split in ('train', 'val', 'test'):
        config[f'{split}_dataloader'].dataset.data_root = str(shapes_data)
    config.val_dataloader.update(num_workers=0, persistent_workers=False)
    config.model.rollout_engine = dict(type='SharedPrefixRollout', pass_cost=300)
    config.param_scheduler = dict(type='LinearLR', start_factor=0.1, end=9, by_epoch=False)
    config.custom_hooks = [*config.custom_hooks, dict(type='KillHook')]
    if config.train_cfg.type == 'GRPOTrainLoop':
        config.train_cfg.max_refills = 1
        config.train_cfg.rewards.box_iou = dict(
            type='QuantileReward', term=dict(type='BoxIoUReward', threshold=None))
        config.train_cfg.rewards.noise = dict(type='NoisyReward')
    return config


def train(config: Config, folder: Path, kills: int, processes: int = 1,
          by: int = signal.SIGKILL) -> str:
    """A run that is left alone and one that is killed so often; what was done to it."""
    config.dump(folder / 'config.py')
    seed = random.SystemRandom().randrange(2**32)  # whatever other tests have seeded
    result = subprocess.run(
        [sys.executable, str(HERE / 'killing.py'), str(folder), str(seed), str(kills),
         str(processes), str(int(by))],
        capture_output=True, text=True)
    assert result.returncode == 0, f'seed {seed}: {result.stdout}{result.stderr}'
    done = f'seed {seed}\n{result.stdout}'
    assert result.stdout.count(', killed ') == kills, done
    assert_over(folder)
    return done


def assert_over(folder: Path) -> None:
    """No process of these runs is left, nor one of their data workers."""
    until = time.monotonic() + 20
    while left := [process for process in psutil.process_iter(['cmdline'])
                   if str(folder) in (process.info['cmdline'] or ())]:
        assert time.monotonic() < until, left
        time.sleep(0.2)


def logged(folder: Path) -> dict[tuple, list[dict]]:
    """Values without times, by step and whether they are of training or of a validation."""
    found: dict[tuple, list[dict]] = {}
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            values = json.loads(line)
            key = (values['step'], 'iter' in values)
            found.setdefault(key, []).append(
                {name: value for name, value in values.items() if not TIMES.search(name)})
    return found


def sampled(folder: Path) -> dict[tuple, list[dict]]:
    """The lines of all `rollouts*.jsonl`, by process, iteration, prompt and response."""
    found: dict[tuple, list[dict]] = {}
    for path in sorted(folder.glob('*/rollouts*.jsonl')):
        for row in read_jsonl(str(path)):
            found.setdefault((path.name, row['iter'], row['group'], row['index']), []).append(row)
    return found


def differences(one, other, where='') -> list[str]:
    """Paths of what differs in two checkpoints, times and places left out."""
    if isinstance(one, torch.Tensor):
        return [] if isinstance(other, torch.Tensor) and one.equal(other) else [where]
    if type(one) is not type(other):
        return [where]
    if isinstance(one, dict):
        keys = {key for key in one.keys() | other.keys() if not TIMES.search(str(key))}
        return [fault for key in sorted(keys, key=str)
                for fault in differences(one.get(key), other.get(key), f'{where}.{key}')]
    if isinstance(one, (list, tuple)):
        return [where] * (len(one) != len(other)) + [
            fault for index, pair in enumerate(zip(one, other, strict=False))
            for fault in differences(*pair, f'{where}.{index}')]
    if isinstance(one, str) and '/' in one:
        one, other = one.rsplit('/')[-1], other.rsplit('/')[-1]
    return [] if one == other else [f'{where}: {one} {other}']


def assert_same(straight: Path, killed: Path, done: str, besides: Sequence[str] = ()) -> None:
    """The same files, the same content (but for what is remembered as one of `besides`), and the
    same values and rollouts for each time that one was logged."""
    names = [sorted(path.name for path in folder.glob('*')
                    if path.is_file() or path.suffix == '.pth') for folder in (straight, killed)]
    assert names[0] == names[1], done
    assert any(name.startswith('iter_') for name in names[0])
    for name in names[0]:
        if name.endswith('.pth'):
            states = [merge_shards(path) if path.is_dir() else torch.load(path, weights_only=True)
                      for path in (straight / name, killed / name)]
            for state in states:  # the text of the config and the like
                state['meta'] = {key: state['meta'][key] for key in ('iter', 'epoch', 'seed')}
                for entry in ('cfg', 'experiment_name', *besides):
                    for part in ('runtime_info', 'resumed_keys'):
                        state['message_hub'][part].pop(entry, None)
            assert not differences(*states), f'{name}: {done}'
    for read in (logged, sampled):
        expected, found = read(straight), read(killed)
        assert expected.keys() == found.keys(), done
        for key, lines in found.items():
            for line in lines:
                assert [line] == expected[key], f'{key}: {done}'


@pytest.mark.promise('Training', 'SIGKILL at a random moment',
                     'no data worker survives; --resume ends bit for bit as an undisturbed run')
@pytest.mark.parametrize('number', range(5))
def test_killed_at_25_random_moments(config, tmp_path, number, tried):
    done = train(config, tmp_path, kills=5)
    assert_same(tmp_path / 'straight', tmp_path / 'killed', done)
    tried('5 runs of 12 iterations, each killed 5 times')


@pytest.mark.promise('Training', 'SIGKILL at a random moment',
                     'no data worker survives; --resume ends bit for bit as an undisturbed run')
def test_two_processes(config, tmp_path, tried):
    done = train(config, tmp_path, 3, processes=2)
    assert_same(tmp_path / 'straight', tmp_path / 'killed', done)
    tried('one of two processes, killed 3 times')


@pytest.mark.promise('Training', 'SIGTERM at a random moment, also to data workers',
                     'the iteration is finished, a checkpoint written, status 143; --resume '
                     'repeats no work and ends bit for bit as an undisturbed run')
@pytest.mark.parametrize('processes', [1, 2])
def test_told_to_end_at_random_moments(config, tmp_path, processes, tried):
    """By SIGTERM to all processes, workers included: nothing is done again."""
    config.default_hooks.checkpoint.update(interval=12, max_keep_ckpts=1)
    done = train(config, tmp_path, 4, processes, signal.SIGTERM)
    assert_same(tmp_path / 'straight', tmp_path / 'killed', done, ('keep_ckpt_ids', 'last_ckpt'))
    steps = [int(step) for step in re.findall(r'resumed at (\d+), killed', done)]
    assert steps[0] == 0 and steps[-1] > 0, done
    for key, lines in logged(tmp_path / 'killed').items():
        assert len(lines) == 1 or not key[1], f'{key} was trained twice: {done}'
    tried(f'{processes} process(es): a run of 12 iterations, ended 4 times')


@pytest.mark.promise('Training', 'SIGKILL at a random moment',
                     'no data worker survives; --resume ends bit for bit as an undisturbed run')
@pytest.mark.parametrize('k, processes', [(1, 1), (2, 1), (2, 2)])
def test_rollouts_that_are_sampled_ahead(config, tmp_path, k, processes, tried):
    config.train_cfg.update(max_staleness=k, max_refills=0)
    config.model.rollout_engine = dict(type='SharedPrefixRollout', records_log_probs=True,
                                       pass_cost=300)
    done = train(config, tmp_path, 3, processes)
    assert_same(tmp_path / 'straight', tmp_path / 'killed', done)
    tried(f'{processes} process(es), rollouts {k} iteration(s) ahead, killed 3 times')


@pytest.mark.promise('Training', 'SIGKILL at a random moment',
                     'no data worker survives; --resume ends bit for bit as an undisturbed run')
@pytest.mark.parametrize('processes, strategy', [(1, None), (2, None), (2, FSDP2)])
def test_conversations(config, tmp_path, monkeypatch, processes, strategy, tried):
    """Validations hold them, too, and processes have different numbers of turns."""
    monkeypatch.setenv('PYTHONPATH', str(HERE.parents[1]), prepend=os.pathsep)
    config.custom_imports = dict(imports=['calling_rollout'])
    config.model.rollout_engine.type = 'CallingRollout'
    config.model.conversation = dict(max_turns=3, max_tokens=600,
                                     limits=dict(min_side=28, size=(112, 112)))
    config.train_cfg.rewards.turns = dict(type='TurnCostReward', weight=0.1)
    if strategy:
        config.strategy = strategy
    done = train(config, tmp_path, 3, processes)
    assert_same(tmp_path / 'straight', tmp_path / 'killed', done)
    turns = [len(row['conversation']['turns'])
             for (row, *_) in sampled(tmp_path / 'straight').values()]
    assert {*turns} == {1, 2, 3}
    tried(f'conversations, {processes} process(es), killed 3 times')


@pytest.mark.parametrize('k, processes', [(0, 1), (1, 2)])
def test_questions_that_are_passed_over(config, tmp_path, k, processes):
    """By what rewards showed; a worker draws batches ahead, and refills or a stale rollout more."""
    config.train_cfg.update(max_staleness=k, max_refills=1 - k)
    config.train_cfg.rewards = dict(length=dict(type='ReasoningLengthReward', soft=1, hard=2))
    config.custom_hooks = [hook for hook in config.custom_hooks if hook.type == 'KillHook']
    if k:
        config.model.rollout_engine = dict(type='SharedPrefixRollout', records_log_probs=True)
    config.train_dataloader.dataset.num_samples = 5
    config.train_dataloader.sampler = dict(
        type='SelectiveSampler', explore=0.1, delay=(3 + k) * 2 * processes)
    done = train(config, tmp_path, 3, processes)
    assert_same(tmp_path / 'straight', tmp_path / 'killed', done)
    lines = [line for found in logged(tmp_path / 'straight').values() for line in found]
    assert max(line.get('passed_over', 0) for line in lines) > 0


def test_with_an_adapter(config, tmp_path):
    config.model.policy.lora = dict(r=4, lora_alpha=8)
    done = train(config, tmp_path, 3)
    assert_same(tmp_path / 'straight', tmp_path / 'killed', done)


def test_supervised_with_epochs_of_four_iterations(shapes_data, tmp_path):
    """mmengine's loop, which begins a new epoch in this process, and data that draws there."""
    config = resumable('tiny_shapes_sft', shapes_data)
    config.train_dataloader.update(
        num_workers=0, persistent_workers=False,
        sampler=dict(type='DefaultSampler', shuffle=True))
    config.train_dataloader.dataset.pipeline.insert(1, dict(type='NoisyImage'))
    done = train(config, tmp_path, 3)
    assert_same(tmp_path / 'straight', tmp_path / 'killed', done)


@pytest.mark.promise('Training', 'SIGKILL at a random moment',
                     'no data worker survives; --resume ends bit for bit as an undisturbed run')
@pytest.mark.parametrize('strategy', [None, FSDP2],
                         ids=['ddp', 'fsdp2'])
def test_three_tasks_on_two_processes(tmp_path, strategy, tried):
    """Advantages are normalized over all responses of a task, whichever process has them."""
    config = Config.fromfile(HERE.parents[2] / 'configs/dpad/qwen7b_mixed_tasks.py')
    config, _ = make_smoke_config(config, '', tmp_path / 'tiny')
    config.merge_from_dict({
        'model.train_cfg.max_new_tokens': 120, 'model.test_cfg.max_new_tokens': 120,
        'optim_wrapper.optimizer.lr': 1e-3, 'default_hooks.checkpoint.interval': 2,
        'train_cfg.max_iters': 8, 'train_cfg.val_begin': 1, 'train_cfg.val_interval': 3,
        'train_cfg.advantage': 'reinforce++'})
    for split in ('train', 'val'):
        for dataset in config[f'{split}_dataloader'].dataset.datasets:
            resize = next(step for step in dataset.pipeline if step.type == 'ModelImageResize')
            resize.size = (112, 112)
    config.train_cfg.rewards.noise = dict(type='NoisyReward', of_each=True)
    config.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    config.custom_hooks = [*config.custom_hooks, dict(type='KillHook')]
    config.custom_imports = dict(imports=['mmdpad.preflight.scripted_rollout'])
    if strategy:
        config.strategy = strategy
    done = train(config, tmp_path, 3, processes=2)
    assert_same(tmp_path / 'straight', tmp_path / 'killed', done)
    rows = [row for (row, *_) in sampled(tmp_path / 'straight').values()]
    assert len({row['task'] for row in rows}) == 3
    assert len({row['advantage'] for row in rows}) > len(rows) / 2
    tried('three tasks on two processes, under DDP and FSDP2, killed 3 times')
