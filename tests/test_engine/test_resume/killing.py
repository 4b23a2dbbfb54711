# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Trains by tools/train.py in processes that kill themselves at random moments.

    python killing.py FOLDER SEED KILLS PROCESSES SIGNAL

FOLDER holds config.py; the runs go to FOLDER/straight and FOLDER/killed.

Imports take longer than a run here, so they are done once and every run is a fork.
"""
import os
import random
import re
import runpy
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Set
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.config import config as mmengine_config
from mmengine.dist import get_rank
from mmengine.hooks import Hook

import mmdpad.apis  # noqa: F401
import mmdpad.datasets  # noqa: F401
import mmdpad.engine.hooks  # noqa: F401
import mmdpad.engine.runner  # noqa: F401
import mmdpad.evaluation  # noqa: F401
import mmdpad.toy  # noqa: F401
from mmdpad.engine.checkpoints import find_complete_checkpoint
from mmdpad.engine.stopping import STATUS
from mmdpad.registry import HOOKS, REWARDS, TRANSFORMS

ROOT = Path(__file__).parents[3]
mmengine_config.FormatCode = lambda text, **style: (text, True)


@HOOKS.register_module()
class KillHook(Hook):
    """Kills the run's processes some time after an iteration has begun, whatever it does then, and
    before the next one: so a run is killed as often as it should be, however fast it is."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        kill_at, by = int(os.environ['KILL_AT']), int(os.environ['KILL_BY'])
        if kill_at < 0 or runner.iter < kill_at or get_rank():
            return
        if runner.iter == kill_at:
            self.timer = threading.Timer(float(os.environ['KILL_AFTER']), os.killpg,
                                         (os.getpgrp(), by))
            self.timer.start()
        elif self.timer.is_alive():
            self.timer.cancel()
            os.killpg(os.getpgrp(), by)


@REWARDS.register_module()
def NoisyReward(rollout, of_each=False):
    """Draws from every generator that a process has, for all responses or for each."""
    shape = (rollout.num_prompts, rollout.group_size)
    return (random.random() + np.random.rand() + torch.rand(shape if of_each else ())).expand(shape)


@TRANSFORMS.register_module()
def NoisyImage():
    """A step of a pipeline that draws from NumPy's generator."""
    def step(results):
        noise = np.random.randint(0, 9, results['img'].shape, dtype=np.uint8)
        return dict(results, img=results['img'] ^ noise)
    return step


def last_iter(work_dir: str) -> int:
    """The iteration from which a run will continue. One that was killed between a checkpoint and
    `last_checkpoint` has the former only."""
    path, _ = find_complete_checkpoint(work_dir)
    return int(re.findall(r'iter_(\d+)', path)[-1]) if path else 0


def train(config: str, work_dir: str, processes: int, kill_at: int = -1, after: float = 0.0,
          by: int = signal.SIGKILL) -> int:
    """Start or resume a run; its (first) process."""
    if child := os.fork():
        return child
    os.setpgrp()  # KillHook kills them all
    output = os.open(f'{work_dir}.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(KILL_AT=str(kill_at), KILL_AFTER=str(after), KILL_BY=str(int(by)))
    os.chdir(ROOT)
    sys.argv = ['tools/train.py', config, '--work-dir', work_dir]
    sys.argv += ['--resume'] * (last_iter(work_dir) > 0)
    others = fork_ranks(processes) if processes > 1 else []
    torch.set_num_threads(1)  # recreates, before several threads do, the pool that a fork loses
    status = 1
    try:
        runpy.run_path('tools/train.py', run_name='__main__')
        status = 0
    except SystemExit as end:
        traceback.print_exc()
        status = end.code
    except BaseException:
        traceback.print_exc()
    for timer in threading.enumerate():
        if isinstance(timer, threading.Timer):
            timer.join()
    for other in others:
        status = status or os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])
    sys.stdout.flush()
    os._exit(status if status in (0, STATUS) else 1)


def fork_ranks(processes: int) -> list[int]:
    """The other processes, for the first; all of them as torchrun starts them."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    os.environ.update(WORLD_SIZE=str(processes), MASTER_ADDR='localhost', MASTER_PORT=str(port))
    sys.argv += ['--launcher', 'pytorch']
    others, rank = [], 0
    for other in range(1, processes):
        others.append(os.fork())
        if not others[-1]:
            others, rank = [], other
            break
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    return others


def main() -> None:
    folder, seed, kills, processes, by = sys.argv[1], *map(int, sys.argv[2:])
    torch.set_num_threads(1)
    config, straight, killed = (f'{folder}/{name}' for name in ('config.py', 'straight', 'killed'))
    draw, left = random.Random(seed), kills
    steps = Config.fromfile(config).train_cfg.max_iters
    finish(train(config, straight, processes), straight)
    while left and (first := last_iter(killed)) < steps:
        step, after = first + draw.randrange(min(3, steps - first)), draw.uniform(0.0, 0.5)
        # A SIGTERM that comes when the training has ended is not answered any more.
        finish(train(config, killed, processes, step, after, by), killed,
               {-signal.SIGKILL} if by == signal.SIGKILL else {STATUS, -by})
        print(f'resumed at {first}, killed {after:.3f} s after {step} had begun', flush=True)
        left -= 1
    finish(train(config, killed, processes), killed)


def finish(process: int, work_dir: str, expected: Set[int] = frozenset({0})) -> None:
    """Wait for a run, and end with its log if it ends in another way than it should."""
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status not in expected:
        sys.exit(f'{Path(f"{work_dir}.log").read_text()[-4000:]}\n{work_dir}: status {status}')


if __name__ == '__main__':
    main()
