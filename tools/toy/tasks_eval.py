# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Evaluates a start policy of detection and question answering, by their configs."""
from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from arguments import ROOT

CONFIGS = dict(ovd=['test_dataloader.dataset.source.ann_file=annotations/instances_val.json',
                    'test_evaluator.1.ann_file=data/shapes_world/annotations/instances_val.json'],
               vqa=['test_dataloader.dataset.ann_file=annotations/questions_val.jsonl'])
"""Name of a task -> options that make its config evaluate on the split `val`."""
MODES = dict(greedy=0.0, sampled=1.0)
"""Temperatures."""
SHOWN = ('detection/f1', 'detection/precision', 'detection/recall', 'detection/count_error',
         'detection/no_target_accuracy', 'vqa/accuracy', 'vqa/evidence_iou',
         'vqa/evidence_accuracy', 'reward/thinking_format', 'reward/discriminative')


def evaluate(folder: Path, count: int = 192) -> dict[str, float]:
    """Measure both tasks on `count` scenes of the split `val`, greedily and with temperature 1.

    Returns:
        `<mode>_<task>_<metric>` -> value, of the configs' evaluators.
    """
    found = {}
    with tempfile.TemporaryDirectory() as work:
        run(work, 'dataset_converters/shapes_world.py', 'data/shapes_world', '--train', '0',
            '--val', str(count), '--test', '0')
        for task, options in CONFIGS.items():
            for mode, temperature in MODES.items():
                out = Path(work, f'{mode}_{task}.json')
                run(work, 'test.py', str(ROOT / f'configs/dpad/tiny_shapes_{task}.py'), '--out',
                    str(out), '--cfg-options', f'model.policy.pretrained={folder.resolve()}',
                    f'model.test_cfg.temperature={temperature}', *options)
                metrics = json.loads(out.read_text(encoding='utf-8'))['metrics']
                found |= {f'{mode}_{task}_{name.split("/")[1]}': round(metrics[name], 3)
                          for name in SHOWN if name in metrics}
    return found


def run(folder: str, script: str, *args: str) -> None:
    """Run a script of `tools/` in a folder."""
    subprocess.run([sys.executable, str(ROOT / 'tools' / script), *args], cwd=folder, check=True,
                   stdout=subprocess.DEVNULL)
