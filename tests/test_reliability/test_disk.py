# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A run whose disk becomes full, or is taken away, while it writes: on a real small disk."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from mmdpad.engine.checkpoints import find_complete_checkpoint

ROOT = Path(__file__).parents[2]
# In a mount namespace of its own, so that the disk is gone with the process; what is on it then is
# copied to the folder beside it.
SMALL_DISK = '''
mount -t tmpfs -o size=$1 tmpfs "$2" && shift || exit 99
folder=$1; shift
"$@"
status=$?
cp -a "$folder/." "$folder.after"
exit $status
'''
REMOUNT = '''
import subprocess
from mmengine.hooks import Hook
from mmdpad.registry import HOOKS

@HOOKS.register_module()
class ReadOnlyHook(Hook):
    """Before the second checkpoint, that of its third iteration."""
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2:
            # Laid over itself, since what has open files cannot be made read-only.
            for options in (['--bind', runner.work_dir], ['-o', 'remount,bind,ro']):
                subprocess.run(['mount', *options, runner.work_dir], check=True)
'''


def namespaces():
    done = subprocess.run(['unshare', '-rm', 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt'],
                          capture_output=True)
    return done.returncode == 0


pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not namespaces(), reason='no mounts without more rights')]


@pytest.fixture
def train(tiny_config, tmp_path):
    """Four iterations on a disk of that size, by tools/train.py; and the end of the run there, and
    of one that was left alone."""
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run.after').mkdir()

    def run(size, *hooks):
        tiny_config.merge_from_dict({
            'train_cfg.max_iters': 4, 'model.train_cfg.group_size': 2,
            'model.train_cfg.max_new_tokens': 40, 'default_hooks.checkpoint.interval': 2})
        tiny_config.custom_hooks += hooks
        if hooks:
            tiny_config.custom_imports = dict(imports=['remount'])
            (tmp_path / 'remount.py').write_text(REMOUNT)
        tiny_config.dump(tmp_path / 'config.py')
        return subprocess.run(
            ['unshare', '-rm', 'sh', '-c', SMALL_DISK, 'sh', size, tmp_path / 'run', sys.executable,
             'tools/train.py', tmp_path / 'config.py', '--work-dir', tmp_path / 'run'],
            cwd=ROOT, capture_output=True, text=True,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(tmp_path), str(ROOT)])})
    return run


def ends_as_if_left_alone(config, folder):
    """The first checkpoint is complete, and a run can resume from it."""
    path, faults = find_complete_checkpoint(str(folder))
    assert Path(path).name == 'iter_2.pth' and not faults
    assert not list(folder.glob('*.unfinished'))
    config.custom_hooks = [hook for hook in config.custom_hooks if hook['type'] != 'ReadOnlyHook']
    ends = []
    for name, start in (('goes_on', path), ('straight', None)):
        config.merge_from_dict({'work_dir': str(folder.with_name(name)), 'load_from': start,
                                'resume': start is not None, 'experiment_name': name})
        Runner.from_cfg(config).train()
        ends.append(torch.load(Path(config.work_dir, 'iter_4.pth'), weights_only=True))
    one, other = (end['state_dict'] for end in ends)
    assert all(one[name].equal(other[name]) for name in one | other)


@pytest.mark.promise('Training', 'The disk is full when a checkpoint is written',
                     'a warning after the previous checkpoint, which stays whole; the run ends '
                     'and says so; --resume ends as if nothing had happened')
def test_a_full_disk(train, tiny_config, tmp_path, tried):
    result = train('30m')
    assert result.returncode == 1, result.stderr[-3000:]
    assert 'could no longer write to' in result.stderr
    assert 'No space left on device' in result.stderr
    assert 'Traceback' not in result.stderr
    assert 'make room, or the next one ends the run' in result.stdout + result.stderr
    ends_as_if_left_alone(tiny_config, tmp_path / 'run.after')
    tried('a disk of 30 MB for checkpoints of 19')


@pytest.mark.promise('Training', 'The work dir becomes read-only, or is read-only from the start',
                     'the run ends and says so, at the start in one line; --resume ends as if '
                     'nothing had happened')
def test_a_disk_that_becomes_read_only(train, tiny_config, tmp_path, tried):
    result = train('90m', dict(type='ReadOnlyHook'))
    assert result.returncode == 1, result.stderr[-3000:]
    assert 'could no longer write to' in result.stderr and 'Read-only file system' in result.stderr
    assert 'Traceback' not in result.stderr
    ends_as_if_left_alone(tiny_config, tmp_path / 'run.after')
    tried('a disk that is mounted read-only in the third iteration')
