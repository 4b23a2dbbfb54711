# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Faults in the middle of a run of tools/train.py: what is said, and that nothing written is lost.

Each run that a fault ends resumes with --resume, and ends bit for bit like one without the fault.
"""
import json
import os
import signal
import time
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from mmdpad.registry import HOOKS, REWARDS

HERE = 2  # the iteration, from 0, at which a fault happens


@HOOKS.register_module()
class FaultHook(Hook):
    """Calls a function of this file's `FAULTS` when an iteration begins."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == HERE:
            FAULTS[self.fault](runner)


FAULTS = {}


@REWARDS.register_module()
def FaultyReward(rollout, fault):
    """Nothing, but for what `FAULTS` gives."""
    return rollout.per_response([0.0] * len(rollout.texts)) + FAULTS[fault]()


@pytest.fixture
def train(tiny_config, tmp_path, run_here):
    """Runs tools/train.py for four iterations with a checkpoint after each."""
    def run(name, *arguments, fault=None, **changes):
        config = tiny_config.copy()
        config.merge_from_dict({
            'train_cfg.max_iters': 4, 'model.train_cfg.group_size': 2,
            'model.train_cfg.max_new_tokens': 40, 'train_cfg.rewards.faulty': dict(
                type='FaultyReward', fault='none'), **changes})
        if fault:
            config.custom_hooks.append(dict(type='FaultHook', fault=fault))
        config.dump(tmp_path / f'{name}.py')
        return run_here('tools/train.py', tmp_path / f'{name}.py', '--work-dir', tmp_path / name,
                        *arguments)
    FAULTS.update(none=lambda *_: 0.0)
    yield run
    FAULTS.clear()


def weights(folder):
    last = max(folder.glob('iter_*.pth'), key=lambda path: int(path.stem[5:]))
    return torch.load(last, weights_only=True)['state_dict']


@pytest.fixture
def goes_on(train, tmp_path):
    """The run that a fault ended has its checkpoints before it, and ends as one without it."""
    def check(name, at=(HERE, ), **changes):
        last = Path(tmp_path, name, 'last_checkpoint').read_text()
        assert int(Path(last).stem[5:]) in at
        assert not list(Path(tmp_path, name).glob('*.unfinished'))
        assert train(name, '--resume', **changes).returncode == 0
        assert train('straight', **changes).returncode == 0
        found, expected = weights(tmp_path / name), weights(tmp_path / 'straight')
        assert found.keys() == expected.keys()
        assert all(found[key].equal(expected[key]) for key in found)
    return check


WORKERS = {'train_dataloader.num_workers': 1, 'train_dataloader.persistent_workers': True}


@pytest.mark.slow
@pytest.mark.promise('Training', 'A data worker is killed',
                     'the run ends at once and says which; --resume ends as if nothing had '
                     'happened')
def test_a_data_worker_is_killed(train, goes_on, tried):
    def kill(runner):
        for worker in active_children():
            os.kill(worker.pid, signal.SIGKILL)
        time.sleep(1)  # the signal that tells of it comes within this
    FAULTS['kill'] = kill
    with pytest.raises(RuntimeError, match=r'DataLoader worker \(pid.* (killed|exited)'):
        train('faulty', fault='kill', **WORKERS)
    goes_on('faulty', **WORKERS)
    tried('SIGKILL to the worker')


@pytest.mark.slow
@pytest.mark.promise('Training', 'An image disappears in the middle of an epoch',
                     'the run ends and names the file; --resume ends as if nothing had happened')
@pytest.mark.parametrize('workers', [0, 1])
def test_an_image_is_gone(train, goes_on, tried, workers, shapes_data):
    images = sorted((shapes_data / 'train').glob('*.jpg'))
    moved = []

    def move(runner):
        for image in images:
            image.rename(image.with_suffix('.gone'))
            moved.append(image)

    changes = {**WORKERS, 'train_cfg.max_iters': 8} if workers else {}
    FAULTS['move'] = move
    try:
        result = train('faulty', fault='move', **changes)
    finally:
        for image in moved:
            image.with_suffix('.gone').rename(image)
    assert result.returncode == 1
    assert 'does not exist; correct the path or restore the file' in result.stderr
    assert str(shapes_data / 'train') in result.stderr
    goes_on('faulty', range(3, 7) if workers else [3], **changes)  # a worker is ahead
    tried('with and without a data worker')


@pytest.mark.slow
@pytest.mark.promise('Training', 'A reward term raises or gives NaN',
                     'the run ends and names the term; --resume ends as if nothing had happened')
@pytest.mark.parametrize('fault, error, message', [
    ('raises', RuntimeError, "Reward term 'faulty' .* raised ZeroDivisionError: division by zero"),
    ('nan', ValueError, "Reward term 'faulty' should be finite")])
def test_a_reward_term_fails(train, goes_on, tried, fault, error, message):
    calls = []

    def fail():
        calls.append(1)
        return 0.0 if len(calls) <= HERE else 1 / 0 if fault == 'raises' else float('nan')

    FAULTS[fault] = fail
    with pytest.raises(error, match=message):
        train('faulty', **{'train_cfg.rewards.faulty.fault': fault})
    goes_on('faulty')
    tried('an exception, and NaN')


@pytest.mark.slow
@pytest.mark.promise('Training', 'The clock jumps',
                     'training is the same; times in the log are wrong for that iteration')
@pytest.mark.parametrize('days', [-4000, 4000])
def test_the_clock_jumps(train, tmp_path, tried, monkeypatch, days):
    now = time.time

    def jump(runner):
        monkeypatch.setattr(time, 'time', lambda: now() + 86400 * days)

    FAULTS['jump'] = jump
    assert train('jumps', fault='jump').returncode == 0
    monkeypatch.setattr(time, 'time', now)
    assert train('straight').returncode == 0
    assert all(map(torch.equal, weights(tmp_path / 'jumps').values(),
                   weights(tmp_path / 'straight').values()))
    rows = [[json.loads(line) for line in
             next((tmp_path / name).glob('*/vis_data/scalars.json')).read_text().splitlines()]
            for name in ('jumps', 'straight')]
    for one, other in zip(*rows, strict=True):
        for key in other:
            assert 'time' in key or 'tokens_per_second' in key or one[key] == other[key]
    tried('4,000 days back and ahead')
