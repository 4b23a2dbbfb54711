# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Runs the study of looking again in the toy world: one turn against two, on tiny objects.

    python tools/analysis_tools/run_zoom_study.py --page docs/results_zoom.md

configs/dpad/tiny_shapes_one_look.py and tiny_shapes_zoom.py train from the same weights, with equal
rollouts and several seeds; the start policy and the end of each run answer the test scenes greedily
and at temperature 1. Each answer is then decoded in several parts of the image, so that what the
policy gains can be told from what the decoder gains. Finished steps are skipped, and an interrupted
training resumes; to start over, remove the work dir. At the end it writes tables.md and
conversations.jpg into the work dir, and with --page the tables between the markers of a page.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from run_study import METRICS, MODES, ROOT, Arm, Run, work_off, write_tables

CONFIGS = dict(one_look='tiny_shapes_one_look', zoom='tiny_shapes_zoom')
"""Arm -> its config."""
DATA = Path('data/tiny_shapes')
TRAIN_SCENES = 800
MARKERS = '<!-- zoom study -->', '<!-- /zoom study -->'
"""Between them a page has the tables."""
PICTURES = 6


@dataclass(frozen=True)
class ZoomArm(Arm):
    """One of `CONFIGS`, or its start policy."""

    label: str = ''

    @classmethod
    def of(cls, name: str, trained: bool) -> ZoomArm:
        return cls(ROOT / f'configs/dpad/{CONFIGS[name]}.py', dict(trained=trained),
                   label=name if trained else f'{name}.start')

    @property
    def name(self) -> str:
        return self.label


class ZoomRun(Run):
    """One arm with one seed."""

    metrics = METRICS[:2]

    @property
    def modes(self) -> list[str]:
        """The greedy answers of a start policy do not depend on the seed."""
        return [mode for mode in MODES if self.arm.trained or mode != 'greedy' or not self.seed]


def score(work_dir: Path) -> None:
    """Decode and score the answers of all runs that have none of these scores, scene by scene, and
    draw some conversations."""
    import numpy as np
    from mmengine.config import Config
    from PIL import Image

    from mmdpad.analysis.zoom_study import draw_conversation, score_answer
    from mmdpad.geometry.crops import CropLimits
    from mmdpad.registry import DATASETS, MODELS
    from mmdpad.utils import read_jsonl, register_all_modules, write_jsonl
    from mmdpad.visualization import draw_grid
    register_all_modules()
    config = Config.fromfile(str(ROOT / f'configs/dpad/{CONFIGS["zoom"]}.py'))
    limits = CropLimits(**config.model.conversation.limits)
    rows = {file.with_name(file.name.replace('samples', 'scores')): list(read_jsonl(str(file)))
            for file in sorted(work_dir.glob('*/seed_*/*.samples.jsonl'))
            if (file.with_name(file.name.split('.')[0] + '.json')).exists()}
    drawn = next((own for file, own in rows.items()
                  if file.parts[-3] == 'zoom' and file.name.startswith('greedy')), [])
    rows = {file: own for file, own in rows.items() if not file.exists()}
    scores, pictures = {file: [] for file in rows}, []
    dataset, decoder = DATASETS.build(config.test_dataloader.dataset), MODELS.build(
        config.model.decoder)
    for number in range(len(dataset)):
        item = dataset[number]
        image, sample = item['inputs']['image'], item['data_samples']
        target = np.asarray(sample.gt_instances.masks[0])
        for file, own in rows.items():
            assert own[number]['id'] == sample.img_id
            scores[file].append(score_answer(own[number], image, target, decoder, limits))
        if number < PICTURES and drawn:
            pictures.append(draw_conversation(drawn[number], image, target,
                                              item['inputs']['model_image']))
    for file, own in scores.items():
        write_jsonl(str(file), own)
    if pictures:
        Image.fromarray(draw_grid(pictures, columns=2)).save(work_dir / 'conversations.jpg',
                                                             quality=80)


def report(work_dir: Path, page: Path | None) -> None:
    """Write the tables of the runs that are done."""
    from mmdpad.analysis.zoom_study import format_study, read_scores
    write_tables(format_study(read_scores(work_dir)), work_dir, page, MARKERS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, default=3, help='seeds per arm (default: 3)')
    parser.add_argument('--jobs', type=int, default=1, help='concurrent runs (default: 1)')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/zoom_study'))
    parser.add_argument('--page', type=Path, help='also write the tables into this page')
    args = parser.parse_args()
    if min(args.jobs, args.seeds) < 1:
        parser.error(f'`--jobs` and `--seeds` should be at least 1, but got {args.jobs} and '
                     f'{args.seeds}')
    subprocess.run([sys.executable, ROOT / 'tools/dataset_converters/shapes_world.py', DATA,
                    '--world', 'tiny', '--train', str(TRAIN_SCENES)], check=True)
    arms = [ZoomArm.of(name, trained) for trained in (False, True) for name in CONFIGS]
    runs = [ZoomRun(arm, seed, args.work_dir) for seed in range(args.seeds) for arm in arms]
    failed = work_off([run for run in runs if not run.is_done], len(runs), args.jobs)
    score(args.work_dir)
    report(args.work_dir, args.page)
    if failed:
        raise SystemExit('\n'.join(failed))


if __name__ == '__main__':
    main()
