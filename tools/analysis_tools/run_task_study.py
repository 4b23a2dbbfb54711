# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Runs the study of detection and question answering in the toy world, then writes its tables.

    python tools/analysis_tools/run_task_study.py

For each task, its config trains with and without the discriminative term, with several seeds. The
start policy and the end of each run answer the test scenes greedily and at temperature 1, and for
detection also the validation scenes greedily, to calibrate the scores of boxes. Finished steps are
skipped, and an interrupted training resumes; to start over, remove the work dir. At the end it
writes ``tables.md``, ``reliability.png``, ``ovd.jpg`` and ``vqa.jpg`` into the work dir, and with
``--page`` the tables between the markers of a page.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from run_study import MODES, ROOT, Arm, Run, work_off, write_tables

TASKS = dict(
    ovd=dict(title='Open-vocabulary detection', file='annotations/instances_{}.json',
             results=(('greedy', 'val'), ('greedy', 'test'), ('sampled', 'test')), rewards=2,
             options=('test_dataloader.dataset.source.ann_file={file}',
                      'test_evaluator.1.ann_file={data}/{file}')),
    vqa=dict(title='Question answering', file='annotations/questions_{}.jsonl',
             results=(('greedy', 'test'), ('sampled', 'test')), rewards=1,
             options=('test_dataloader.dataset.ann_file={file}', )))
"""Of each task: its annotations, the modes and splits that are answered, the place of
``RewardMetric`` among the evaluators of its config, and the options that choose a split."""
ARMS = dict(start=(), rules=('custom_hooks=[]', ), discriminative=())
"""Options of the config in the training of each arm; 'start' is not trained."""
DATA = Path('data/shapes_world')
MARKERS = '<!-- task study -->', '<!-- /task study -->'
"""Between them a page has the tables."""


@dataclass(frozen=True)
class TaskArm(Arm):
    """A task with or without the discriminative term, or its start policy."""

    task: str = 'ovd'
    arm: str = 'start'

    @classmethod
    def of(cls, task: str, arm: str) -> TaskArm:
        return cls(ROOT / f'configs/dpad/tiny_shapes_{task}.py', {}, ARMS[arm], task, arm)

    @property
    def name(self) -> str:
        return f'{self.task}_{self.arm}'

    @property
    def trained(self) -> bool:
        return self.arm != 'start'


class TaskRun(Run):
    """One arm with one seed."""

    arm: TaskArm

    @property
    def results(self) -> list[tuple[str, str]]:
        """Modes and splits that are evaluated. The greedy answers of the start policy do not depend
        on the seed."""
        return [(mode, split) for mode, split in TASKS[self.arm.task]['results']
                if self.arm.trained or mode != 'greedy' or not self.seed]

    @property
    def is_done(self) -> bool:
        return all((self.folder / f'{mode}.{split}.json').exists() for mode, split in self.results)

    def evaluate(self, mode: str, *checkpoint: str) -> None:
        """Evaluate on the splits; ``<mode>.<split>.json`` exists only once the lines do, too."""
        task = TASKS[self.arm.task]
        for split in [split for wanted, split in self.results if wanted == mode]:
            result = self.folder / f'{mode}.{split}.json'
            if result.exists():
                continue
            for stale in self.folder.glob(f'{mode}.{split}.*'):
                stale.unlink()  # left by an evaluation that did not finish
            file, lines = task['file'].format(split), result.with_suffix('.samples.jsonl')
            self._call('tools/test.py', str(self.arm.config), *checkpoint,
                       '--work-dir', str(self.folder / 'test'), '--out', str(result),
                       '--cfg-options', f'model.test_cfg.seed={self.seed}',
                       f'model.test_cfg.temperature={MODES[mode]}',
                       *(option.format(file=file, data=DATA) for option in task['options']),
                       f'test_evaluator.0.out_file={lines}',
                       f'test_evaluator.{task["rewards"]}.out_file='
                       f'{result.with_suffix(".rewards.jsonl")}')


def report(work_dir: Path, tasks: Sequence[str], page: Path | None) -> None:
    """Write the tables and pictures of the finished runs."""
    from mmdet.datasets.api_wrappers import COCO

    from mmdpad.analysis.task_tables import ARMS as ARM_TITLES
    from mmdpad.analysis.task_tables import draw_before_and_after, format_task, read_task
    from mmdpad.visualization import plot_reliability
    parts = []
    for task in tasks:
        file = COCO(str(DATA / TASKS[task]['file'].format('test'))) if task == 'ovd' else None
        results = read_task(work_dir, task, file)
        parts += [f'### {TASKS[task]["title"]}', format_task(results, task)]
        greedy = results.answers['greedy']
        draw_before_and_after(greedy['start'][0].rows, greedy['discriminative'][0].rows,
                              'right' if task == 'ovd' else 'accuracy', work_dir / f'{task}.jpg')
        if task == 'ovd':
            (work_dir / 'reliability.png').unlink(missing_ok=True)
            scored = {arm: results.scored[arm][0] for arm in ('start', 'discriminative')}
            plot_reliability({f'{ARM_TITLES[arm]}, {"calibrated" if calibrated else "raw"}':
                              run.curve('combined', calibrated) for arm, run in scored.items()
                              for calibrated in (False, True)}, str(work_dir / 'reliability.png'))
    write_tables('\n\n'.join(part.strip() for part in parts), work_dir, page, MARKERS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=list(TASKS), metavar='TASK',
                        help=f'some of {", ".join(TASKS)} (default: all)')
    parser.add_argument('--seeds', type=int, default=3, help='seeds per arm (default: 3)')
    parser.add_argument('--jobs', type=int, default=1, help='concurrent runs (default: 1)')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/task_study'))
    parser.add_argument('--page', type=Path, help='also write the tables into this page')
    args = parser.parse_args()
    if min(args.jobs, args.seeds) < 1:
        parser.error(f'`--jobs` and `--seeds` should be at least 1, but got {args.jobs} and '
                     f'{args.seeds}')
    subprocess.run([sys.executable, ROOT / 'tools/dataset_converters/shapes_world.py', DATA],
                   check=True)
    arms = [TaskArm.of(task, arm) for task in args.tasks for arm in ARMS]
    runs = [TaskRun(arm, seed, args.work_dir) for seed in range(args.seeds) for arm in arms]
    failed = work_off([run for run in runs if not run.is_done], len(runs), args.jobs)
    if failed:
        raise SystemExit('\n'.join(failed))
    report(args.work_dir, args.tasks, args.page)


if __name__ == '__main__':
    main()
