# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Times an evaluation of detection with and without scores of the boxes.

    python tools/benchmarks/box_scores.py

The toy policy of configs/dpad/tiny_shapes_ovd.py answers questions about synthetic scenes, and
DetectionMetric sums up, in turns without a `model.box_scorer` (none) and with each. Fails if the
answers differ. Prints JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=48, help='scenes, with a question each')
    parser.add_argument('--batch-size', type=int, default=24)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--threads', type=int, default=1, help='CPU threads')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # so that --help does not wait for the imports below

import torch
from common import alternate, environment, print_json, summary
from mmengine.config import Config
from mmengine.runner import Runner

from mmdpad.models.segmentors.box_scores import build_box_scorer


def make_scenes(folder: Path, number: int) -> None:
    """Write test scenes with their boxes in COCO's form."""
    tool = ROOT / 'tools/dataset_converters/shapes_world.py'
    arguments, sys.argv = sys.argv, [str(tool), str(folder), '--train', '1', '--val', '1',
                                     '--test', str(number)]
    try:
        runpy.run_path(str(tool), run_name='__main__')
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv = arguments


def make_runner(folder: Path, args: argparse.Namespace) -> Runner:
    """A runner of the toy config, with DetectionMetric as its only metric."""
    config = Config.fromfile(ROOT / 'configs/dpad/tiny_shapes_ovd.py')
    loader = config.test_dataloader
    loader.update(batch_size=args.batch_size, num_workers=0, persistent_workers=False)
    loader.dataset.source.data_root = str(folder / 'scenes')
    config.merge_from_dict(dict(work_dir=str(folder / 'run'), log_level='WARNING',
                                train_dataloader=None, train_cfg=None, optim_wrapper=None,
                                param_scheduler=None, auto_scale_lr=None, custom_hooks=[]))
    config.test_evaluator = dict(type='DetectionMetric')
    config.visualizer = dict(type='Visualizer', vis_backends=[])
    return Runner.from_cfg(config)


def sides(runner: Runner) -> dict[str, Callable[[], None]]:
    """An evaluation with each scorer, by its name."""
    model, f1 = runner.model, set()
    both = runner.cfg.model.box_scorer

    def side(config: Any) -> Callable[[], None]:
        scorer = build_box_scorer(config, model.tasks, model.policy)

        def evaluate() -> None:
            model.box_scorer = scorer
            f1.add(runner.test()['detection/f1'])
            if len(f1) > 1:
                raise SystemExit(f'The answers should be the same with all scorers, but F1 is {f1}')

        return evaluate

    return dict(none=side(None), **{config['type']: side(config)
                                    for config in (*both.scorers, both)})


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    about = environment()
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        folder = Path(name)
        make_scenes(folder / 'scenes', args.images)
        runner = make_runner(folder, args)
        seconds = alternate(sides(runner), args.repeats)
        metrics = runner.test_loop.evaluator.metrics[0].summary['metrics']
    print_json(dict(environment=about, setting=vars(args), f1=metrics['f1'],
                    questions=metrics['n'], **summary(seconds, 'none')))


if __name__ == '__main__':
    main()
