# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Evaluate: python tools/test.py CONFIG [CHECKPOINT] [--resume]; without a checkpoint the start
policy."""

from __future__ import annotations

import json
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.runner import Runner

from mmdpad.datasets import DatasetError
from mmdpad.engine.hooks.answer_store_hook import find_answers
from mmdpad.engine.trial import try_config
from mmdpad.evaluation.results import describe_results
from mmdpad.utils import check_file, experiment_parser, jsonable, read_config, write_atomically


def main() -> None:
    parser = experiment_parser('Evaluate a checkpoint on the test set',
                               'model.test_cfg.temperature=1.0')
    parser.add_argument('checkpoint', nargs='?', help='what tools/train.py wrote; left out: the '
                        'start policy, with the weights that the config names')
    parser.add_argument('--out', help='also write all metrics to this JSON file, '
                        'with protocol, intervals and provenance')
    parser.add_argument('--resume', action='store_true', help='go on with an interrupted test: '
                        'take over the answers that are in the work dir already')
    parser.add_argument('--dry-run', action='store_true', help='instead: check everything that can '
                        'be checked without loading weights, and list what is wrong')
    args = parser.parse_args()
    if args.dry_run:
        raise SystemExit(try_config(args))
    check_file('checkpoint', args.checkpoint)
    if args.out and Path(args.out).exists():
        raise SystemExit(f'--out {args.out!r} is there already; remove it or name another file')
    cfg = read_config(args)
    cfg.load_from = args.checkpoint
    if args.resume:
        if not find_answers(cfg.work_dir):
            raise SystemExit(f'--resume: there are no answers of an earlier test in '
                             f'{cfg.work_dir!r}; leave it out to start a new one')
        cfg.merge_from_dict({'default_hooks.answers': dict(type='AnswerStoreHook', resume=True)})
    try:
        runner = Runner.from_cfg(cfg)
        metrics = runner.test()
    except DatasetError as error:
        raise SystemExit(str(error)) from error
    if args.out and is_main_process():
        out = describe_results(metrics, runner.test_loop.evaluator.metrics, args.out)
        print(write_atomically(args.out, json.dumps(jsonable(out), indent=2).encode()))


if __name__ == '__main__':
    main()
