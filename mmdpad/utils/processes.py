# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Several processes on machines without a GPU."""

from __future__ import annotations

import atexit
import gc
import os
import re
import subprocess
from datetime import timedelta

import torch.distributed as dist


def join_processes(launcher: str, timeout: float | None = None) -> None:
    """Join the processes of a CPU run with gloo; they separate at exit.

    mmengine's own start-up sets a CUDA device, but it does not touch an existing process group.

    Args:
        launcher: 'pytorch' (torchrun) or 'slurm' (srun).
        timeout: Seconds after which a process stops waiting for the others.

    Raises:
        SystemExit: The launcher is another one, or did not start the process.
    """
    try:
        if launcher == 'slurm':
            _take_over_slurm()
        elif launcher != 'pytorch' or 'RANK' not in os.environ:
            raise KeyError('RANK')
    except KeyError as error:
        raise SystemExit(
            f'--launcher {launcher}: without a GPU, processes should be started by torchrun '
            f'(tools/dist_train.sh) or srun (tools/slurm_train.sh), but {error} is not in the '
            f'environment; use one of these') from error
    dist.init_process_group('gloo', timeout=timeout and timedelta(seconds=timeout))
    atexit.register(_part)


def _part() -> None:
    """End gloo's threads before the interpreter exits. They end with the last object that holds
    their group, such as a sharded model, which is part of a reference cycle."""
    gc.collect()
    dist.destroy_process_group()


def _take_over_slurm() -> None:
    """Translate srun's environment variables into torchrun's."""
    os.environ.update(RANK=os.environ['SLURM_PROCID'], WORLD_SIZE=os.environ['SLURM_NTASKS'],
                      LOCAL_RANK=os.environ['SLURM_LOCALID'], LOCAL_WORLD_SIZE=str(_tasks_here()))
    os.environ.setdefault('MASTER_PORT', '29500')
    if 'MASTER_ADDR' not in os.environ:
        nodes = subprocess.run(['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']],
                               capture_output=True, text=True, check=True)
        os.environ['MASTER_ADDR'] = nodes.stdout.split()[0]


def _tasks_here() -> int:
    """How many processes srun started on this machine; all of them if it does not say."""
    names = ('SLURM_STEP_TASKS_PER_NODE', 'SLURM_TASKS_PER_NODE', 'SLURM_NTASKS_PER_NODE',
             'SLURM_NTASKS')
    said = next(os.environ[name] for name in names if os.environ.get(name))
    counts = [int(count) for count, times in re.findall(r'(\d+)(?:\(x(\d+)\))?', said)  # 2(x3),1
              for _ in range(int(times or 1))]
    return counts[min(int(os.environ.get('SLURM_NODEID', 0)), len(counts) - 1)]
