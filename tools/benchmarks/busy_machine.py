# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A toy training iteration beside other programs, with several settings of torch's threads.

    python tools/benchmarks/busy_machine.py
    python tools/benchmarks/busy_machine.py --loads 0 2 --side '3000 spins' GOMP_SPINCOUNT=3000

OpenMP threads that wait for each other spin, each on a core that another program, or the thread
they wait for, could use. `mmdpad` adapts their number to the free cores (`FreeCoresHook`), `torch`
does not. Sides take turns, each under every load.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
CONFIG = 'configs/dpad/tiny_shapes.py'
# How threads wait, and how many there are: every side starts without these variables.
VARIABLES = ('GOMP_SPINCOUNT', 'KMP_BLOCKTIME', 'OMP_WAIT_POLICY', 'OMP_NUM_THREADS',
             'MKL_NUM_THREADS')
HOOK_OFF = 'default_hooks.threads=None'
SIDES = {'mmdpad': [], 'torch': [HOOK_OFF],
         'torch, passive': [HOOK_OFF, 'OMP_WAIT_POLICY=PASSIVE'],
         'torch, one thread': [HOOK_OFF, 'OMP_NUM_THREADS=1']}
SPIN = 'import time; end = time.monotonic() + 3600\nwhile time.monotonic() < end: pass'


class BusyProcesses:
    """Processes that each keep a core busy; as a context manager, it stops them all."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> BusyProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        self.set_number(0)

    def set_number(self, number: int) -> None:
        """Start or end processes to reach this number."""
        while len(self._processes) < number:
            self._processes.append(subprocess.Popen([sys.executable, '-c', SPIN]))
        while len(self._processes) > number:
            process = self._processes.pop()
            process.kill()
            process.wait()


def train(data: str, settings: Sequence[str], loads: Sequence[int],
          iterations: int) -> dict[int, list[float]]:
    """Train with some environment variables and config options, beside a varying number of busy
    processes.

    Returns:
        Load -> seconds of the measured iterations; the one in which the load changes is excluded.
    """
    variables = [setting for setting in settings if setting.partition('=')[0].isupper()]
    environ = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environ.update(setting.split('=', 1) for setting in variables)
    times: list[float] = []
    with tempfile.TemporaryDirectory() as work_dir, BusyProcesses() as busy:
        process = subprocess.Popen(
            [sys.executable, 'tools/train.py', CONFIG, '--work-dir', work_dir, '--cfg-options',
             f'train_cfg.max_iters={1 + len(loads) * (iterations + 1)}',
             'train_cfg.val_interval=1000000', f'train_dataloader.dataset.data_root={data!r}',
             f'val_dataloader.dataset.data_root={data!r}', 'default_hooks.logger.interval=1',
             'log_processor.window_size=1', *(s for s in settings if s not in variables)],
            cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            busy.set_number(loads[min(max(0, len(times) - 1) // (iterations + 1), len(loads) - 1)])
            time.sleep(0.01)
            for log in Path(work_dir).glob('*/vis_data/scalars.json'):
                lines = map(json.loads, log.read_text().splitlines())
                times = [line['time'] for line in lines if 'time' in line]
    if process.returncode:
        raise SystemExit(f'`tools/train.py {CONFIG}` with {settings} failed (exit status '
                         f'{process.returncode}); run it separately to see why')
    parts = range(2, len(times), iterations + 1)
    return {load: times[start:start + iterations]
            for load, start in zip(loads, parts, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--loads', type=int, nargs='+', default=[0, 1, 6],
                        help='numbers of busy processes beside the training')
    parser.add_argument('--sides', nargs='+', choices=SIDES, default=list(SIDES))
    parser.add_argument('--side', nargs='+', action='append', default=[], metavar='NAME KEY=VALUE',
                        help='a custom side, by environment variables and config options')
    parser.add_argument('--iterations', type=int, default=6, help='measured iterations per load')
    parser.add_argument('--repeats', type=int, default=2, help='runs of each side under each load')
    args = parser.parse_args()

    from common import environment, print_json  # imported here so that --help stays fast
    sides = {name: SIDES[name] for name in args.sides}
    sides.update((name, settings) for name, *settings in args.side)

    seconds: dict[str, dict[str, list[float]]] = {
        name: {str(load): [] for load in args.loads} for name in sides}
    with tempfile.TemporaryDirectory() as data:
        subprocess.run([sys.executable, 'tools/dataset_converters/shapes_world.py', data],
                       cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        for _ in range(args.repeats):
            for name, settings in sides.items():
                for load, times in train(data, settings, args.loads, args.iterations).items():
                    seconds[name][str(load)] += times
                print(name, {load: f'{median(times):.2f} s'
                             for load, times in seconds[name].items()}, file=sys.stderr)
    medians = {name: {load: median(values) for load, values in runs.items()}
               for name, runs in seconds.items()}
    idle = str(min(args.loads))
    print_json(dict(
        setting=dict(config=CONFIG, iterations=args.iterations, repeats=args.repeats, sides=sides),
        seconds=seconds, median=medians,
        ratio_to_idle={name: {load: value / runs[idle] for load, value in runs.items()}
                       for name, runs in medians.items()},
        ratio_to_torch={name: {load: value / medians['torch'][load]
                                 for load, value in runs.items()}
                          for name, runs in medians.items()} if 'torch' in medians else None,
        environment=environment()))


if __name__ == '__main__':
    main()
