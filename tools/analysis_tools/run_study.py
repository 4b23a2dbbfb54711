# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Runs the study: every arm in configs/study/ with its seeds, then the report.

    python tools/analysis_tools/run_study.py
    python tools/analysis_tools/run_study.py --arms start geometric discriminative --jobs 2

A run consists of a training and two evaluations (greedy, and at temperature 1), each by the
ordinary command. Finished steps are skipped, and an interrupted training resumes; to start over,
remove the work dir. Each run uses one thread, so results are bit-for-bit the same for any number
of concurrent runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]  # a checkout, or .mim/ in a wheel
CONFIGS = ROOT / 'configs/study'
DATA = Path('data/study')
SCENES = dict(study=(2000, 0), few=(0, 128), many=(0, 128), look_alikes=(0, 128),
              shifted=(0, 128))
"""Scenes for training and for testing, by world."""
PASS_RATES = DATA / 'pass_rates.jsonl'
"""How often the start policy answers each training question right; some arms read it."""
MODES = dict(greedy=0.0, sampled=1.0)
"""Temperatures of the evaluations."""
METRICS = ('samples', 'rewards', 'specific')
"""What the evaluator's metrics write, in order."""


@dataclass(frozen=True)
class Arm:
    """An arm of the study; ``about`` is its config's ``arm``, ``options`` change the config in a
    training."""

    config: Path
    about: dict[str, Any]
    options: tuple[str, ...] = ()

    @classmethod
    def read(cls, config: Path) -> Arm:
        return cls(config, Config.fromfile(str(config)).arm.to_dict())

    @property
    def name(self) -> str:
        return self.config.stem

    def check_start(self) -> None:
        """Raise SystemExit if the start policy does not exist."""
        folder = Path(Config.fromfile(str(self.config)).model.policy.pretrained)
        if not (folder / 'config.json').is_file():
            raise SystemExit(
                f'The start policy of {self.config.name} should be in {folder}, but does not '
                f'exist; the wheel of mmdpad leaves it out: run `make study` in a checkout')

    @property
    def seeds(self) -> int:
        return self.about['seeds']

    @property
    def trained(self) -> bool:
        return self.about.get('trained', True)


class Run:
    """One arm with one seed, in a separate folder."""

    metrics = METRICS

    def __init__(self, arm: Arm, seed: int, work_dir: Path) -> None:
        self.arm, self.seed = arm, seed
        self.folder = work_dir / arm.name / f'seed_{seed}'

    @property
    def name(self) -> str:
        return f'{self.arm.name}, seed {self.seed}'

    @property
    def modes(self) -> list[str]:
        """Names of the evaluations, some of `MODES`."""
        return list(MODES)

    @property
    def is_done(self) -> bool:
        return all((self.folder / f'{mode}.json').exists() for mode in self.modes)

    def __call__(self) -> float:
        """Do the remaining steps; return the seconds they took."""
        start = time.perf_counter()
        checkpoint = [self.train()] if self.arm.trained else []
        for mode in self.modes:
            if not (self.folder / f'{mode}.json').exists():
                self.evaluate(mode, *checkpoint)
        return time.perf_counter() - start

    def train(self) -> str:
        """Train, or resume an interrupted training; return the last checkpoint."""
        folder, done = self.folder / 'train', self.folder / 'trained'
        if not done.exists():
            resume = ['--resume'] if any(folder.glob('iter_*.pth')) else []
            self._call('tools/train.py', str(self.arm.config), '--work-dir', str(folder), *resume,
                       '--cfg-options', f'randomness.seed={self.seed}', *self.arm.options)
            done.write_text(Path((folder / 'last_checkpoint').read_text()).name)
        return str(folder / done.read_text())

    def evaluate(self, mode: str, *checkpoint: str) -> None:
        """Evaluate on all test sets; ``<mode>.json`` exists only once the lines do, too."""
        lines = [self.folder / f'{mode}.{name}.jsonl' for name in self.metrics]
        for stale in self.folder.glob(f'{mode}.*.json*'):
            stale.unlink()  # left by an evaluation that did not finish
        self._call('tools/test.py', str(self.arm.config), *checkpoint,
                   '--work-dir', str(self.folder / 'test'),
                   '--out', str(self.folder / f'{mode}.json'), '--cfg-options',
                   f'model.test_cfg.seed={self.seed}',
                   f'model.test_cfg.temperature={MODES[mode]}',
                   *(f'test_evaluator.{i}.out_file={str(path)!r}' for i, path in enumerate(lines)))

    def _call(self, *command: str) -> None:
        """Run a python command of the project, appending its output to ``log.txt``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / 'log.txt'
        with log.open('a') as stream:
            result = subprocess.run([sys.executable, ROOT / command[0], *command[1:]],
                                    stdout=stream, stderr=subprocess.STDOUT,
                                    env=dict(os.environ, OMP_NUM_THREADS='1'))
        if result.returncode:
            raise RuntimeError(f'`python {" ".join(command)}` failed (exit status '
                               f'{result.returncode}); its output is in {log}')


def main() -> None:
    arms = {path.stem: path for path in sorted(CONFIGS.glob('*.py'))}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--arms', nargs='+', choices=arms, default=list(arms), metavar='ARM',
                        help=f'some of {", ".join(arms)} (default: all)')
    parser.add_argument('--seeds', type=int, help='seeds per arm (default: see its config)')
    parser.add_argument('--jobs', type=int, default=os.cpu_count(),
                        help='concurrent runs (default: the number of cores)')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/study'))
    args = parser.parse_args()
    if min(args.jobs, args.seeds or 1) < 1:
        parser.error(f'`--jobs` and `--seeds` should be at least 1, but got {args.jobs} and '
                     f'{args.seeds}')
    chosen = [Arm.read(arms[name]) for name in args.arms]
    for arm in chosen:
        arm.check_start()
    make_data()
    if any(arm.about.get('pass_rates') for arm in chosen):
        estimate_pass_rates(args.work_dir)
    for arm in chosen:
        write_about(arm, args.work_dir)
    # Seed by seed, so that an interrupted study has some seeds of every arm.
    runs = [Run(arm, seed, args.work_dir) for seed in range(max(a.seeds for a in chosen))
            for arm in chosen if seed < (args.seeds or arm.seeds)]
    failed = work_off([run for run in runs if not run.is_done], len(runs), args.jobs)
    subprocess.run([sys.executable, ROOT / 'tools/analysis_tools/study_report.py',
                    str(args.work_dir), '--html', str(args.work_dir / 'report.html'),
                    '--json', str(args.work_dir / 'report.json')], check=True)
    if failed:
        raise SystemExit('\n'.join(failed))


def make_data() -> None:
    """Make the scenes; existing ones are left unchanged."""
    for world, (train, test) in SCENES.items():
        subprocess.run([sys.executable, ROOT / 'tools/dataset_converters/shapes_world.py',
                        str(DATA / world), '--world', world, '--train', str(train), '--val', '0',
                        '--test', str(test)], check=True)


def estimate_pass_rates(work_dir: Path) -> None:
    """Write :data:`PASS_RATES`, unless they are there."""
    if not PASS_RATES.exists():
        subprocess.run([sys.executable, ROOT / 'tools/analysis_tools/estimate_difficulty.py',
                        str(CONFIGS / 'discriminative.py'), '--out', str(PASS_RATES),
                        '--work-dir', str(work_dir / 'pass_rates')], check=True,
                       env=dict(os.environ, OMP_NUM_THREADS='1'))


def write_about(arm: Arm, work_dir: Path) -> None:
    """Write what the report needs to know about an arm."""
    folder = work_dir / arm.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'arm.json').write_text(json.dumps(arm.about, indent=2) + '\n')


def write_tables(text: str, work_dir: Path, page: Path | None, markers: tuple[str, str]) -> None:
    """Write Markdown into ``tables.md`` of the work dir and between the markers of a page."""
    from mmdpad.utils.files import atomic_file
    from mmdpad.utils.markdown import put_block
    written = {work_dir / 'tables.md': text + '\n'}
    if page is not None:
        written[page] = put_block(page.read_text(), f'{markers[0]}\n\n{text}\n\n{markers[1]}')
    for path, content in written.items():
        with atomic_file(str(path)) as file:
            file.write(content.encode())
        print(path)


def work_off(runs: Sequence[Run], total: int, jobs: int) -> list[str]:
    """Do the runs, ``jobs`` at a time, printing a line for each; return the failures."""
    failed, start, before = [], time.perf_counter(), total - len(runs)
    print(f'{total} runs, {before} of them already done, {jobs} at a time', flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(run): run for run in runs}
        for number, future in enumerate(as_completed(waiting), 1):
            error = future.exception()
            left = (time.perf_counter() - start) / number * (len(runs) - number)
            outcome = f'{future.result():.0f} s' if error is None else f'FAILED: {error}'
            print(f'[{before + number}/{total}] {waiting[future].name}: {outcome}; about '
                  f'{left / 60:.0f} min left', flush=True)
            if error is not None:
                failed.append(f'{waiting[future].name}: {error}')
    return failed


if __name__ == '__main__':
    main()
