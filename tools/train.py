# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Train: python tools/train.py configs/dpad/tiny_shapes.py [--work-dir D] [--resume]"""

from __future__ import annotations

from pathlib import Path

from mmdpad.datasets import DatasetError
from mmdpad.engine.build import build_runner
from mmdpad.utils import check_checkpoint, experiment_parser, read_config


def main() -> None:
    parser = experiment_parser('Train a config', 'optim_wrapper.optimizer.lr=2e-6')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on from the latest checkpoint of the work dir, or from this one')
    args = parser.parse_args()
    cfg = read_config(args)

    earlier = sorted(Path(cfg.work_dir).glob('*.pth'))
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
        if args.resume == 'auto' and not earlier:
            raise SystemExit(f'--resume: there is no checkpoint in {cfg.work_dir!r}; leave it out '
                             f'to start a new run there')
    elif earlier:
        raise SystemExit(f'{cfg.work_dir!r} holds the checkpoints of an earlier run '
                         f'({earlier[-1].name}): go on with it by --resume, or name another '
                         f'folder by --work-dir')
    check_checkpoint('load_from: checkpoint', cfg.get('load_from'), cfg)
    try:
        build_runner(cfg).train()
    except DatasetError as error:
        raise SystemExit(str(error)) from error


if __name__ == '__main__':
    main()
