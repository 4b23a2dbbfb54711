# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Runs the study of detection and question answering in the toy world, then writes its tables.

    python tools/analysis_tools/run_task_study.py

For each task, its config trains with and without the discriminative term, with several seeds. The
start policy and the end of each run answer the test scenes greedily and at temperature 1, and for
detection also the validation scenes, to calibrate the scores of boxes. Finished steps are skipped,
and an interrupted training resumes; to start over, remove the work dir.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from run_study import MODES, ROOT, Arm, Run, work_off

TASKS = dict(ovd='open-vocabulary detection', vqa='question answering')
ARMS = dict(start='start policy', rules='rewards by rules alone',
            discriminative='+ discriminative term')
SPLITS = dict(ovd=('val', 'test'), vqa=('test', ))
DATA = Path('data/shapes_world')


@dataclass(frozen=True)
class TaskArm(Arm):
    """A task with or without the discriminative term, or its start policy."""

    task: str = 'ovd'
    arm: str = 'start'

    @property
    def name(self) -> str:
        return f'{self.task}_{self.arm}'

    @property
    def trained(self) -> bool:
        return self.arm != 'start'


class TaskRun(Run):
    """One arm with one seed."""

    arm: TaskArm
    files: ClassVar = dict(ovd='annotations/instances_{}.json', vqa='annotations/questions_{}.jsonl')

    @property
    def is_done(self) -> bool:
        return all((self.folder / f'{mode}.{split}.json').exists() for mode in MODES
                   for split in SPLITS[self.arm.task])

    def evaluate(self, mode: str, *checkpoint: str) -> None:
        for split in SPLITS[self.arm.task]:
            out = self.folder / f'{mode}.{split}.json'
            if out.exists():
                continue
            file = self.files[self.arm.task].format(split)
            data = {'ovd': [f'test_dataloader.dataset.source.ann_file={file}',
                            f'test_evaluator.1.ann_file={DATA / file}'],
                    'vqa': [f'test_dataloader.dataset.ann_file={file}']}[self.arm.task]
            lines = out.with_name(f'{mode}.{split}.samples.jsonl')
            for stale in self.folder.glob(f'{mode}.{split}.*'):
                stale.unlink()
            self._call('tools/test.py', str(self.arm.config), *checkpoint,
                       '--work-dir', str(self.folder / 'test'), '--out', str(out), '--cfg-options',
                       f'model.test_cfg.seed={self.seed}',
                       f'model.test_cfg.temperature={MODES[mode]}',
                       f'test_evaluator.0.out_file={lines}', *data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=list(TASKS), metavar='TASK',
                        help=f'some of {", ".join(TASKS)} (default: all)')
    parser.add_argument('--seeds', type=int, default=3, help='seeds per arm (default: 3)')
    parser.add_argument('--jobs', type=int, default=1, help='concurrent runs (default: 1)')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/task_study'))
    args = parser.parse_args()
    if min(args.jobs, args.seeds) < 1:
        parser.error(f'`--jobs` and `--seeds` should be at least 1, but got {args.jobs} and '
                     f'{args.seeds}')
    subprocess.run([sys.executable, ROOT / 'tools/dataset_converters/shapes_world.py', DATA],
                   check=True)
    arms = [TaskArm(ROOT / f'configs/dpad/tiny_shapes_{task}.py', {},
                    ('custom_hooks=[]', ) if arm == 'rules' else (), task, arm)
            for task in args.tasks for arm in ARMS]
    runs = [TaskRun(arm, seed, args.work_dir) for seed in range(args.seeds) for arm in arms]
    failed = work_off([run for run in runs if not run.is_done], len(runs), args.jobs)
    if failed:
        raise SystemExit('\n'.join(failed))


if __name__ == '__main__':
    main()
