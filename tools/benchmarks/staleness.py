# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Iterations whose rollouts are sampled elsewhere, with `train_cfg.max_staleness` 0, 1 and 2.

    python tools/benchmarks/staleness.py
    python tools/benchmarks/staleness.py --rollout 3 --update 1

The training loop runs with the toy model. A simulated server takes a fixed time for each rollout,
one after the other, and the update waits until it has taken a fixed time, too. What is left is the
loop's own time: data, rewards, weights and log. The settings take turns.

Prints JSON.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[2]
CONFIG = 'configs/dpad/tiny_shapes.py'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rollout', type=float, default=2.0, help='seconds of a rollout')
    parser.add_argument('--update', type=float, default=2.0, help='seconds of an update')
    parser.add_argument('--max-staleness', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--iterations', type=int, default=8, help='measured ones in a run')
    parser.add_argument('--repeats', type=int, default=2, help='runs with each setting')
    return parser.parse_args()


if __name__ == '__main__':
    parse_args()  # so that --help does not wait for the imports below

import torch
from common import environment, print_json
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdpad.models.rollouts import Responses, RolloutEngine
from mmdpad.registry import HOOKS, ROLLOUTS

RESPONSE = '<think>it is the red circle.</think><answer>[]</answer>'


@ROLLOUTS.register_module(force=True)
class SimulatedServer(RolloutEngine):
    """Takes ``seconds`` for each rollout, one after the other, in a thread. All responses are the
    same."""

    records_log_probs = True

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.thread = ThreadPoolExecutor(1)

    def submit(self, head: Any, prompts: Any, **sampling: Any) -> Future[Responses]:
        ids, mask = head.encode_responses([RESPONSE] * len(prompts) * sampling['group_size'])
        responses = Responses(ids, mask, torch.zeros(len(ids)).bool(), -torch.ones(ids.shape))

        def answer() -> Responses:
            time.sleep(self.seconds)
            return responses

        return self.thread.submit(answer)

    def sample(self, head: Any, prompts: Any, how: Any) -> Responses:
        return self.submit(head, prompts, group_size=how.group_size).result()


@HOOKS.register_module(force=True)
class UpdateTimeHook(Hook):
    """Lets an update take ``seconds``, and notes when iterations end."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.ends: list[float] = []

    def before_update(self, runner: Runner, rollout: Any) -> None:
        self.start = time.perf_counter()

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        time.sleep(max(0.0, self.start + self.seconds - time.perf_counter()))
        self.ends.append(time.perf_counter())


def train(data: str, work_dir: str, max_staleness: int, args: argparse.Namespace) -> list[float]:
    """Seconds of the iterations of a run, without the first ones, which sample by turns."""
    config = Config.fromfile(str(ROOT / CONFIG))
    first = max_staleness + 1
    config.merge_from_dict({
        'train_cfg.max_iters': first + args.iterations, 'train_cfg.max_staleness': max_staleness,
        'train_dataloader.batch_size': 2, 'model.train_cfg.group_size': 2,
        'train_dataloader.dataset.data_root': data, 'work_dir': work_dir, 'log_level': 'ERROR',
        'default_hooks.checkpoint.interval': 1000, 'default_hooks.checkpoint.save_last': False})
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    config.default_hooks.checkpoint.save_best = None
    del config.default_hooks.curves
    config.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    config.model.rollout_engine = dict(type='SimulatedServer', seconds=args.rollout)
    config.custom_hooks.append(dict(type='UpdateTimeHook', seconds=args.update))
    config.experiment_name = f'staleness_{max_staleness}_{time.monotonic_ns()}'
    runner = Runner.from_cfg(config)
    runner.train()
    ends = next(hook for hook in runner.hooks if isinstance(hook, UpdateTimeHook)).ends[first - 1:]
    return [end - start for start, end in zip(ends, ends[1:], strict=False)]


def main() -> None:
    args = parse_args()
    seconds: dict[str, list[float]] = {str(k): [] for k in args.max_staleness}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, 'tools/dataset_converters/shapes_world.py',
                        f'{folder}/data', '--train', '8', '--val', '0', '--test', '0'],
                       cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        for repeat in range(args.repeats):
            for k in args.max_staleness:
                seconds[str(k)] += train(f'{folder}/data', f'{folder}/{repeat}_{k}', k, args)
    medians = {k: median(values) for k, values in seconds.items()}
    least = medians[str(min(args.max_staleness))]
    print_json(dict(
        setting=vars(args),
        seconds=seconds, median=medians,
        ratio_to_least_staleness={k: value / least for k, value in medians.items()},
        environment=environment()))


if __name__ == '__main__':
    main()
