# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Estimates how often a policy answers each training question right.

    python tools/analysis_tools/estimate_difficulty.py configs/dpad/tiny_shapes.py \
        --out data/shapes_world/pass_rates.jsonl

One pass over the training data, with the responses per question, the sampling and the rewards of
the config, and without training. `train_dataloader.dataset.difficulty=dict(file=..., min=0.1,
max=0.9)` then leaves out what is too hard or too easy. docs/data.md explains the file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmdpad.utils import (
    check_checkpoint,
    config_parser,
    read_config,
    read_jsonl,
    start_command,
    write_jsonl,
)


def main() -> None:
    parser = config_parser(__doc__.splitlines()[0], 'model.train_cfg.group_size=16')
    parser.add_argument('--out', required=True, metavar='OUT.jsonl',
                        help='where to write the pass rates; a taken name gets a number')
    parser.add_argument('--term', default='box_iou', metavar='NAME', help='the reward term that '
                        'tells whether a response is right (default: box_iou)')
    parser.add_argument('--at-least', type=float, default=0.5, metavar='X',
                        help='the smallest value of a right one (default: 0.5)')
    parser.add_argument('--work-dir', help='folder for logs and responses (default: '
                        'work_dirs/<name of the config>_difficulty)')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='how the processes were started')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0,
                        help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work_dir = args.work_dir or f'work_dirs/{Path(args.config).stem}_difficulty'
    with start_command():
        config = read_config(args)

        from mmengine.dist import barrier, is_main_process

        from mmdpad.datasets import DatasetError
        from mmdpad.datasets.difficulty import pass_rates
        from mmdpad.engine.build import UnsuitableConfig, build_runner
        from mmdpad.engine.runner.pass_rate_loop import measuring
        from mmdpad.models.non_finite import NonFiniteError
    check_checkpoint('load_from: checkpoint', config.get('load_from'), config)
    try:
        runner = build_runner(measuring(config, args.term))
        runner.train()
        barrier()
        if is_main_process():
            rows = (row for path in sorted(Path(runner.log_dir).glob('rollouts*.jsonl'))
                    for row in read_jsonl(str(path)))
            rates = pass_rates(rows, args.term, args.at_least)
            print(write_jsonl(args.out, rates))
    except (DatasetError, NonFiniteError, UnsuitableConfig, ValueError) as error:
        raise SystemExit(str(error)) from error


if __name__ == '__main__':
    main()
