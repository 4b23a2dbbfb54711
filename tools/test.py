# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Evaluate: python tools/test.py CONFIG [CHECKPOINT]; without a checkpoint the start policy."""

from __future__ import annotations

import json
from pathlib import Path

from mmengine.runner import Runner

from mmdpad.utils import check_file, experiment_parser, jsonable, read_config, write_atomically


def main() -> None:
    parser = experiment_parser('Evaluate a checkpoint on the test set',
                               'model.test_cfg.temperature=1.0')
    parser.add_argument('checkpoint', nargs='?', help='what tools/train.py wrote; left out: the '
                        'start policy, with the weights that the config names')
    parser.add_argument('--out', help='also write the metrics to this JSON file')
    args = parser.parse_args()
    check_file('checkpoint', args.checkpoint)
    if args.out and Path(args.out).exists():
        raise SystemExit(f'--out {args.out!r} is there already; remove it or name another file')
    cfg = read_config(args)
    cfg.load_from = args.checkpoint
    metrics = Runner.from_cfg(cfg).test()
    if args.out:
        write_atomically(args.out, json.dumps(jsonable(metrics), indent=2).encode())


if __name__ == '__main__':
    main()
