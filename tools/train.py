# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Train: python tools/train.py configs/dpad/tiny_shapes.py [--work-dir D] [--resume]

Without weights or data: --dry-run lists all that is wrong with a config, --smoke runs it in small.
"""

from __future__ import annotations

from pathlib import Path

from mmengine.runner import Runner

from mmdpad.datasets import DatasetError
from mmdpad.engine.trial import try_config
from mmdpad.utils import check_file, experiment_parser, read_config


def main() -> None:
    parser = experiment_parser('Train a config', 'optim_wrapper.optimizer.lr=2e-6')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on from the latest checkpoint of the work dir, or from this one')
    parser.add_argument('--smoke', action='store_true', help='instead: the same config on small '
                        'random models and made data, for two steps, in a temporary work dir')
    parser.add_argument('--dry-run', action='store_true', help='instead: check everything that can '
                        'be checked without loading weights, and list what is wrong')
    args = parser.parse_args()
    if args.smoke or args.dry_run:
        raise SystemExit(try_config(args))
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
    check_file('load_from: checkpoint', cfg.get('load_from'))
    try:
        Runner.from_cfg(cfg).train()
    except DatasetError as error:
        raise SystemExit(str(error)) from error


if __name__ == '__main__':
    main()
