# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Runs the study of selectors in the toy world: which one picks the best of several answers?

    python tools/analysis_tools/run_selection_study.py --page docs/results_selection.md

The start policy of configs/dpad/tiny_shapes_loose_boxes.py and its end, trained here as by
`make demo`, give 32 answers to scenes with few objects, with many, and with look-alikes. Finished
steps are skipped, and an interrupted training resumes; to start over, remove the work dir. At the
end it writes tables.md and the risk-coverage curves into the work dir, and with --page the tables
between the markers of a page.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from run_study import ROOT, Arm, Run, work_off, write_tables

DATA = Path('data/selection_study')
TRAINING = ROOT / 'configs/dpad/tiny_shapes_loose_boxes.py'
EVALUATION = ROOT / 'configs/dpad/tiny_shapes_best_of_n.py'
SPLITS = ('val', 'test')
RESPONSES = 512
"""How many are sampled at a time."""
MARKERS = '<!-- selection study -->', '<!-- /selection study -->'
"""Between them a page has the tables."""


class SelectionRun(Run):
    """One policy on the scenes of all worlds.

    Args:
        policy: 'start' or 'trained'.
        worlds: Names of worlds.
        num_samples: Number of answers.
        work_dir: The study's folder.
    """

    def __init__(self, policy: str, worlds: tuple[str, ...], num_samples: int,
                 work_dir: Path) -> None:
        super().__init__(Arm(TRAINING, dict(trained=policy == 'trained')), 0, work_dir)
        self.policy, self.worlds, self.num_samples = policy, worlds, num_samples
        self.folder = work_dir / policy / 'seed_0'

    @property
    def name(self) -> str:
        return f'{self.policy} policy'

    @property
    def missing(self) -> list[tuple[str, str]]:
        """Worlds and splits without a result."""
        return [(world, split) for world in self.worlds for split in SPLITS
                if not (self.folder / f'{world}.{split}.json').exists()]

    @property
    def is_done(self) -> bool:
        return not self.missing

    def __call__(self) -> float:
        start = time.perf_counter()
        checkpoint = [self.train()] if self.arm.trained else []
        for world, split in self.missing:
            self.answer(world, split, *checkpoint)
        return time.perf_counter() - start

    def answer(self, world: str, split: str, *checkpoint: str) -> None:
        """Evaluate on a split; ``<world>.<split>.json`` exists only once the lines do, too."""
        result = self.folder / f'{world}.{split}.json'
        for stale in self.folder.glob(f'{world}.{split}.*'):
            stale.unlink()  # left by an evaluation that did not finish
        self._call('tools/test.py', str(EVALUATION), *checkpoint,
                   '--work-dir', str(self.folder / 'test'), '--out', str(result), '--cfg-options',
                   f'model.test_cfg.num_samples={self.num_samples}',
                   f'test_dataloader.batch_size={max(1, RESPONSES // self.num_samples)}',
                   f'test_dataloader.dataset.data_root={DATA / world}',
                   f'test_dataloader.dataset.split={split}',
                   f'test_evaluator.0.out_file={result.with_suffix(".samples.jsonl")}')


def report(work_dir: Path, page: Path | None) -> None:
    """Write the tables and pictures."""
    from mmdpad.analysis.selection_study import format_study, read_study
    from mmdpad.utils.markdown import wrap_markdown
    from mmdpad.visualization import plot_risk_coverage
    found, weights = read_study(work_dir)
    write_tables(wrap_markdown(format_study(found, weights)), work_dir, page, MARKERS)
    for (policy, world), summary in found.items():
        picture = work_dir / f'risk_coverage_{policy}_{world}.png'
        picture.unlink(missing_ok=True)
        print(plot_risk_coverage({name: own['curve'] for name, own in
                                  summary['abstention'].items()}, str(picture)))


def make_data(worlds: tuple[str, ...], scenes: int) -> None:
    """Make the training scenes, and of each world the test scenes and a third as many to fit
    weights; existing ones are left unchanged."""
    tool = str(ROOT / 'tools/dataset_converters/shapes_world.py')
    subprocess.run([sys.executable, tool, 'data/shapes_world'], check=True)
    for world in worlds:
        subprocess.run([sys.executable, tool, str(DATA / world), '--world', world, '--train', '1',
                        '--val', str(-(-scenes // 3)), '--test', str(scenes)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--scenes', type=int, default=192,
                        help='test scenes of each world; as many / 3 fit weights (default: 192)')
    parser.add_argument('--num-samples', type=int, default=32, metavar='N',
                        help='answers to each scene (default: 32)')
    parser.add_argument('--jobs', type=int, default=1, help='concurrent runs (default: 1)')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/selection_study'))
    parser.add_argument('--page', type=Path, help='also write the tables into this page')
    args = parser.parse_args()
    for name, least in (('scenes', 1), ('num_samples', 2), ('jobs', 1)):
        if (value := getattr(args, name)) < least:
            parser.error(f'--{name.replace("_", "-")} should be at least {least}, but got {value}')

    from mmdpad.analysis.selection_study import POLICIES, WORLDS
    make_data((*WORLDS, ), args.scenes)
    runs = [SelectionRun(policy, (*WORLDS, ), args.num_samples, args.work_dir)
            for policy in POLICIES]
    failed = work_off([run for run in runs if not run.is_done], len(runs), args.jobs)
    if failed:
        raise SystemExit('\n'.join(failed))
    report(args.work_dir, args.page)


if __name__ == '__main__':
    main()
