# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The script behind `make demo`: DPAD on toy data, from scenes to a table, pictures and a report.

Every step is an ordinary command of this project, shown before it runs. Finished steps are
skipped; to start over, remove the work dir.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

CONFIG = 'configs/dpad/tiny_shapes_loose_boxes.py'
DATA = 'data/shapes_world'
WORK_DIR = Path('work_dirs/tiny_shapes_loose_boxes')
SAMPLED = 'model.test_cfg.temperature=1.0'
ROWS = (('reasonseg/giou', 'gIoU, %'), ('reasonseg/ciou', 'cIoU, %'),
        ('reward/total', 'reward (sum)'), ('reward/', None),
        ('reasonseg/reasoning_tokens', 'reasoning length, tokens'),
        ('reasonseg/parse_failure_rate', 'unusable responses, share'))


def run(*command: str) -> None:
    """Run a python command of the project, displayed as a user would type it."""
    print(f'\n$ python {shlex.join(command)}', flush=True)
    start = time.perf_counter()
    result = subprocess.run([sys.executable, *command])
    if result.returncode:
        raise SystemExit(f'`python {shlex.join(command)}` failed (exit status '
                         f'{result.returncode}); see its message above')
    print(f'  ({time.perf_counter() - start:.0f} s)', flush=True)


def train() -> Path:
    """Train, or resume an interrupted training; return the last checkpoint."""
    done = WORK_DIR / 'trained'
    if not done.exists():
        resume = ['--resume'] if any(WORK_DIR.glob('iter_*.pth')) else []
        run('tools/train.py', CONFIG, *resume)
        done.write_text((WORK_DIR / 'last_checkpoint').read_text())
    return Path(os.path.relpath(done.read_text()))


def evaluate(name: str, *arguments: str) -> dict[str, float]:
    """Evaluate on the held-out scenes; write metrics and per-sample lines to <name>.json[l]."""
    out = WORK_DIR / 'eval' / f'{name}.json'
    if not out.exists():
        options = [a for a in arguments if '=' in a]
        options.append(f'test_evaluator.0.out_file={out.with_name(f"{name}.samples.jsonl")}')
        for stale in out.parent.glob(f'{name}.samples.json*'):
            stale.unlink()  # left by an evaluation that did not finish
        run('tools/test.py', CONFIG, *(a for a in arguments if '=' not in a), '--out', str(out),
            '--cfg-options', *options)
    return json.loads(out.read_text())['metrics']


def print_table(columns: dict[str, dict[str, float]]) -> None:
    """One row per metric, one column per evaluation."""
    names = sorted({name for metrics in columns.values() for name in metrics})
    rows = []
    for key, title in ROWS:
        if title is not None:
            rows.append((key, title))
        else:
            rows += [(n, f'  {n.removeprefix(key)}') for n in names
                     if n.startswith(key) and n != 'reward/total'
                     and not n.startswith(('reward/signal', 'reward/iou_correlation'))]
    width = max(len(title) for _, title in rows) + 2
    print('\n' + ' ' * width + ''.join(f'{name:>16}' for name in columns))
    for key, title in rows:
        values = (metrics.get(key) for metrics in columns.values())
        print(f'{title:<{width}}' + ''.join(f'{"-":>16}' if v is None else f'{v:16.3f}'
                                            for v in values))


def typical_pairs(pairs: list[tuple[dict, dict]], count: int) -> list[tuple[dict, dict]]:
    """Of the answers to each scene at the start and the end, those in the middle of `count` equal
    parts of all scenes, ordered from the largest gain in IoU to the largest loss."""
    ordered = sorted(pairs, key=lambda pair: pair[0]['iou'] - pair[1]['iou'])
    return [ordered[(2 * part + 1) * len(ordered) // (2 * count)] for part in range(count)]


def draw_pictures(scenes: int = 6) -> list[str]:
    """Held-out scenes, greedily answered at the start and the end; training curves."""
    from PIL import Image

    from mmdpad.datasets.transforms import read_image
    from mmdpad.utils import training_logs
    from mmdpad.visualization import draw_grid, draw_row, plot_curves
    from mmdpad.visualization.answer import verdict

    pictures = []
    stages = [(WORK_DIR / 'eval' / f'{stage}_greedy.samples.jsonl').read_text().splitlines()
              for stage in ('start', 'end')]
    pairs = [(json.loads(start), json.loads(end)) for start, end in zip(*stages, strict=True)]
    for pair in typical_pairs(pairs, scenes):
        for stage, row in zip(('start', 'end'), pair, strict=True):
            pictures.append(draw_row(read_image(row['image']), row,
                                     note=f'{stage} of training, {verdict(row)}'))
    answers, curves = WORK_DIR / 'answers.png', WORK_DIR / 'curves.png'
    curves.unlink(missing_ok=True)
    Image.fromarray(draw_grid(pictures, columns=2)).save(answers)
    plot_curves([str(log) for log in training_logs(WORK_DIR)], str(curves))
    return [str(answers), str(curves)]


def report() -> Path:
    """Write the run's report page."""
    page = WORK_DIR / 'report.html'
    page.unlink(missing_ok=True)
    run('tools/analysis_tools/report.py', str(WORK_DIR), '--result',
        str(WORK_DIR / 'eval/end_greedy.samples.json'), '--out', str(page))
    return page


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition('\n')[0]).parse_args()
    start = time.perf_counter()
    run('tools/dataset_converters/shapes_world.py', DATA)
    columns = {'start, greedy': evaluate('start_greedy'),
               'start, T=1': evaluate('start_sampled', SAMPLED)}
    checkpoint = str(train())
    columns |= {'end, greedy': evaluate('end_greedy', checkpoint),
                'end, T=1': evaluate('end_sampled', checkpoint, SAMPLED)}
    print_table({name: columns[name] for name in
                 ('start, greedy', 'end, greedy', 'start, T=1', 'end, T=1')})
    pictures, page = draw_pictures(), report()
    print('\nHeld-out scenes before and after training, from most gained to most lost (each stands '
          f'for a sixth of them): {pictures[0]}'
          f'\nTraining curves: {pictures[1]}'
          f'\nReport of the run, for a browser: {page}'
          f'\n{time.perf_counter() - start:.0f} s. To start over, remove {WORK_DIR}/')


if __name__ == '__main__':
    main()
