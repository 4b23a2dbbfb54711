# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""`mmdpad test CONFIG [CHECKPOINT]`, also `python tools/test.py CONFIG [CHECKPOINT]`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdpad.utils import (
    check_checkpoint,
    check_config,
    experiment_parser,
    jsonable,
    override,
    read_config,
    start_command,
    write_atomically,
)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Evaluate a checkpoint, or check the config.

    Args:
        argv: The arguments; None for those of this process.
        prog: The command's name in the help text.

    Raises:
        SystemExit: With a message about what is wrong, or the status of ``--dry-run``.
    """
    parser = experiment_parser('Evaluate a checkpoint on the test set',
                               'model.test_cfg.temperature=1.0', prog)
    parser.add_argument('checkpoint', nargs='?', help='a training checkpoint (default: the start '
                        'policy, with the weights that the config names)')
    parser.add_argument('--out', help='also write all metrics to this .json file, with protocol, '
                        'intervals and provenance; or the predictions to this .pkl file, in the '
                        "order of the data set, for mmdet's tools")
    parser.add_argument('--show', action='store_true', help='show every answer in a window')
    parser.add_argument('--show-dir', metavar='DIR', help='write a picture of every answer to '
                        'this folder; a relative path is inside TIME/ of the work dir')
    parser.add_argument('--wait-time', type=float, default=2, metavar='S', help='seconds for which '
                        'an answer is shown; 0 waits for a key (default: 2)')
    parser.add_argument('--tta', action='store_true', help='not supported; says why')
    parser.add_argument('--resume', action='store_true', help='continue an interrupted test: '
                        'reuse the answers that are already in the work dir')
    args = parser.parse_args(argv)
    pickled = (args.out or '').endswith(('.pkl', '.pickle'))
    if args.out and not (pickled or args.out.endswith('.json')):
        raise SystemExit(f'--out should end in .json, for all metrics, or in .pkl, for the '
                         f"predictions that mmdet's tools read, but got {args.out!r}; rename it")
    if args.out and Path(args.out).exists():
        raise SystemExit(f'--out {args.out!r} already exists; remove it or name another file')
    check_config(args.config)  # report a misspelled one before torch is imported
    if args.dry_run:
        with start_command():
            from mmdpad.preflight import try_config
        raise SystemExit(try_config(args))
    with start_command():
        cfg = read_config(args)

        from mmengine.dist import is_main_process

        from mmdpad.datasets import DatasetError
        from mmdpad.engine.build import UnsuitableConfig, build_runner
        from mmdpad.engine.checkpoints import find_fault
        from mmdpad.engine.flags import apply_flags
        from mmdpad.engine.hooks.response_cache_hook import find_answers
        from mmdpad.evaluation.results import describe_results
        from mmdpad.models.non_finite import NonFiniteError
        from mmdpad.models.rollouts.vllm_client import ServerError
        from mmdpad.models.rollouts.weight_transfer import WeightTransferError
    check_checkpoint('checkpoint', args.checkpoint, cfg)
    cfg.load_from = args.checkpoint
    if problems := apply_flags(cfg, args):
        raise SystemExit('\n'.join(problems))
    if args.checkpoint and (fault := find_fault(args.checkpoint)):
        raise SystemExit(f'checkpoint: {fault}')
    if args.resume:
        if not find_answers(cfg.work_dir):
            raise SystemExit(f'--resume: there are no answers of an earlier test in '
                             f'{cfg.work_dir!r}; leave it out to start a new one')
        override(cfg, {
            'default_hooks.response_cache': dict(type='ResponseCacheHook', resume=True)})
    try:
        runner = build_runner(cfg, training=False)
        if pickled:
            _add_dump(runner, args.out)
        metrics = runner.test()
    except (DatasetError, NonFiniteError, ServerError, UnsuitableConfig,
            WeightTransferError) as error:
        raise SystemExit(str(error)) from error
    if pickled and is_main_process():
        print(args.out)
    elif args.out and is_main_process():
        out = describe_results(metrics, runner.test_loop.evaluator, args.out)
        print(write_atomically(args.out, json.dumps(jsonable(out), indent=2).encode()))


def _add_dump(runner: Any, path: str) -> None:
    """Make a test write its predictions, as ``--out`` of mmdet's tools/test.py does.

    Raises:
        SystemExit: The loop evaluates one metric per data set and cannot take another one.
    """
    from mmdet.evaluation import DumpDetResults

    from mmdpad.engine.runner import ReasonSegTestLoop
    loop = runner.test_loop
    if hasattr(loop.evaluator, 'dataset_prefixes') and not isinstance(loop, ReasonSegTestLoop):
        raise SystemExit(f"--out {path!r} with MultiDatasetsEvaluator needs `test_cfg=dict(type="
                         f"'ReasonSegTestLoop')`, but got {type(loop).__name__}; set it")

    class DumpAnswers(DumpDetResults):
        """Leaves out the answers that were not chosen."""

        def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
            super().process(data_batch, [
                {name: value for name, value in sample.items() if name != 'selection'}
                for sample in data_samples])

    loop.evaluator.metrics.append(DumpAnswers(out_file_path=path))
