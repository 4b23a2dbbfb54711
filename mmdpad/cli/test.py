# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""`mmdpad test CONFIG [CHECKPOINT]`, also `python tools/test.py CONFIG [CHECKPOINT]`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mmdpad.utils import (
    check_checkpoint,
    check_config,
    experiment_parser,
    jsonable,
    read_config,
    start_command,
    write_atomically,
)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Evaluates a checkpoint, or checks the config.

    Args:
        argv: The arguments; None for those of this process.
        prog: What the help text calls the command.

    Raises:
        SystemExit: With what is wrong, or the status of ``--dry-run``.
    """
    parser = experiment_parser('Evaluate a checkpoint on the test set',
                               'model.test_cfg.temperature=1.0', prog)
    parser.add_argument('checkpoint', nargs='?', help='what training wrote; left out: the '
                        'start policy, with the weights that the config names')
    parser.add_argument('--out', help='also write all metrics to this JSON file, '
                        'with protocol, intervals and provenance')
    parser.add_argument('--resume', action='store_true', help='go on with an interrupted test: '
                        'take over the answers that are in the work dir already')
    args = parser.parse_args(argv)
    check_config(args.config)  # a misspelt one is told before torch is imported
    start_command()
    if args.dry_run:
        from mmdpad.engine.trial import try_config
        raise SystemExit(try_config(args))
    if args.out and Path(args.out).exists():
        raise SystemExit(f'--out {args.out!r} is there already; remove it or name another file')
    cfg = read_config(args)
    check_checkpoint('checkpoint', args.checkpoint, cfg)
    cfg.load_from = args.checkpoint

    from mmengine.dist import is_main_process

    from mmdpad.datasets import DatasetError
    from mmdpad.engine.build import UnsuitableConfig, build_runner
    from mmdpad.engine.checkpoints import find_fault
    from mmdpad.engine.hooks.answer_store_hook import find_answers
    from mmdpad.evaluation.results import describe_results
    from mmdpad.models.non_finite import NonFiniteError
    if args.checkpoint and (fault := find_fault(args.checkpoint)):
        raise SystemExit(f'checkpoint: {fault}')
    if args.resume:
        if not find_answers(cfg.work_dir):
            raise SystemExit(f'--resume: there are no answers of an earlier test in '
                             f'{cfg.work_dir!r}; leave it out to start a new one')
        cfg.merge_from_dict({'default_hooks.answers': dict(type='AnswerStoreHook', resume=True)})
    try:
        runner = build_runner(cfg, training=False)
        metrics = runner.test()
    except (DatasetError, NonFiniteError, UnsuitableConfig) as error:
        raise SystemExit(str(error)) from error
    if args.out and is_main_process():
        out = describe_results(metrics, runner.test_loop.evaluator.metrics, args.out)
        print(write_atomically(args.out, json.dumps(jsonable(out), indent=2).encode()))
