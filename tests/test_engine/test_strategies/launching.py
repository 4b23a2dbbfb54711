# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Runs of several processes on this machine's CPU."""
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from mmengine.runner import Runner

ROOT = Path(__file__).parents[3]
FSDP2 = dict(type='mmdpad.FSDP2Strategy')
# Of weights in float64, and of adapters, which are float32; a step changes a weight by about 2e-4.
NOISE = {False: 1e-12, True: 1e-6}


def free_port():
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return str(server.getsockname()[1])


def environment(**more):
    return {**os.environ, 'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1', 'PORT': free_port(),
            **more}


def launch(config, processes, *arguments, check=True, **variables):
    """tools/dist_train.sh on a config."""
    path = Path(config.work_dir).with_suffix('.config.py')
    config.dump(path)
    result = subprocess.run(
        ['tools/dist_train.sh', str(path), str(processes), '--work-dir', config.work_dir,
         *arguments], cwd=ROOT, env=environment(**variables), capture_output=True, text=True,
        timeout=300)
    assert not check or result.returncode == 0, result.stdout[-3000:] + result.stderr[-5000:]
    return result


def evaluate(config, processes):
    """tools/test.py on a config and its start policy, by processes under a launcher."""
    path = Path(config.work_dir).with_suffix('.config.py')
    config.dump(path)
    result = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone',
         f'--nproc-per-node={processes}', 'tools/test.py', str(path), '--launcher', 'pytorch',
         '--work-dir', config.work_dir], cwd=ROOT, env=environment(), capture_output=True,
        text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-5000:]


def run_here(config):
    Runner.from_cfg(config).train()
    return weights_of(Path(config.work_dir, f'iter_{config.train_cfg.max_iters}.pth'))


def weights_of(path):
    return torch.load(path, map_location='cpu', weights_only=True)['state_dict']


def farthest(state, other):
    assert state.keys() == other.keys()
    return max(float((state[name] - other[name]).abs().max()) for name in state)
