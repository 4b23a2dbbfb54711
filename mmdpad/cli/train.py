# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""`mmdpad train CONFIG`, also `python tools/train.py CONFIG`."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from mmdpad.utils import (
    check_checkpoint,
    check_config,
    experiment_parser,
    lock_work_dir,
    read_config,
    start_command,
)

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')  # of --launcher pytorch, slurm, mpi


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Train a config, or smoke-test or check it.

    Args:
        argv: The arguments; None for those of this process.
        prog: The command's name in the help text.

    Raises:
        SystemExit: With a message about what is wrong, or the status of ``--smoke`` and
            ``--dry-run``.
    """
    parser = experiment_parser('Train a config', 'optim_wrapper.optimizer.lr=2e-6', prog)
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='resume from the latest checkpoint in the work dir, or from this one')
    parser.add_argument('--amp', action='store_true', help='mixed precision: AmpOptimWrapper in '
                        'place of OptimWrapper, in bfloat16 unless `optim_wrapper.dtype` says '
                        'otherwise')
    parser.add_argument('--auto-scale-lr', action='store_true', help='multiply the learning rate '
                        'by the number of prompts per step, over all processes, divided by '
                        '`auto_scale_lr.base_batch_size`')
    parser.add_argument('--smoke', action='store_true', help='instead: run the same config on tiny '
                        'random models and synthetic data, for two steps, in a temporary work dir')
    args = parser.parse_args(argv)
    check_config(args.config)  # report a misspelled one before torch is imported
    if args.smoke or args.dry_run:
        with start_command():
            from mmdpad.preflight import try_config
        raise SystemExit(try_config(args))
    with start_command():
        cfg = read_config(args)

        from mmdpad.datasets import DatasetError
        from mmdpad.engine.build import UnsuitableConfig, build_runner
        from mmdpad.engine.checkpoints import find_fault
        from mmdpad.engine.flags import apply_flags
        from mmdpad.models.non_finite import NonFiniteError
        from mmdpad.models.rollouts.vllm_client import ServerError
        from mmdpad.models.rollouts.weight_transfer import WeightTransferError
    earlier = sorted(Path(cfg.work_dir).glob('*.pth'))
    if args.resume:
        cfg.resume = True
        cfg.load_from = (_checkpoint_to_resume(cfg.work_dir) if args.resume == 'auto'
                         else args.resume)
    elif earlier:
        raise SystemExit(f'{cfg.work_dir!r} holds the checkpoints of an earlier run '
                         f'({earlier[-1].name}): resume it with --resume, or name another '
                         f'folder with --work-dir')
    check_checkpoint('load_from: checkpoint', cfg.get('load_from'), cfg)
    if problems := apply_flags(cfg, args):
        raise SystemExit('\n'.join(problems))
    if cfg.get('load_from') and (fault := find_fault(cfg.load_from)):
        raise SystemExit(f'load_from: {fault}')
    rank = next((os.environ[name] for name in _RANKS if name in os.environ), '0')
    try:
        with lock_work_dir(cfg.work_dir) if rank == '0' else nullcontext():
            build_runner(cfg).train()
    except (DatasetError, NonFiniteError, ServerError, UnsuitableConfig,
            WeightTransferError) as error:
        raise SystemExit(str(error)) from error
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise SystemExit(f'training stopped because it could no longer write to {cfg.work_dir!r} '
                         f'({error}). The checkpoints there are complete; once the folder is '
                         f'writable, continue with --resume') from error


def _checkpoint_to_resume(work_dir: str) -> str:
    from mmdpad.engine.checkpoints import find_complete_checkpoint
    path, faults = find_complete_checkpoint(work_dir)
    for damaged, fault in faults.items():
        print(f'WARNING: --resume: {damaged} is damaged; skipping it: {fault}', file=sys.stderr)
    if path is None:
        raise SystemExit(f'--resume: there is no {"complete " if faults else ""}checkpoint in '
                         f'{work_dir!r}; leave it out to start a new run there')
    return path
