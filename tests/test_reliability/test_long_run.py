# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""2,000 iterations of the toy model, with a data worker, logs and checkpoints: nothing grows."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmdpad.utils import read_jsonl

ROOT = Path(__file__).parents[2]
STEPS, WARM = 2000, 400


@pytest.mark.slow
@pytest.mark.promise('Long runs', '2,000 iterations',
                     'memory, open files, threads and the time per iteration stay constant; logs '
                     'grow by the same amount per iteration')
def test_nothing_grows(tiny_config, tmp_path, tried):
    config = tiny_config
    config.merge_from_dict({
        'train_cfg.max_iters': STEPS, 'model.train_cfg.group_size': 2,
        'model.train_cfg.max_new_tokens': 40, 'work_dir': str(tmp_path / 'run'),
        'train_dataloader.num_workers': 1, 'train_dataloader.persistent_workers': True,
        'default_hooks.checkpoint.interval': 100, 'default_hooks.checkpoint.max_keep_ckpts': 2})
    config.visualizer.vis_backends.append(dict(type='TensorboardVisBackend'))
    config.custom_imports = dict(imports=['watching'])
    config.custom_hooks.append(dict(type='WatchHook'))
    config.dump(tmp_path / 'config.py')
    result = subprocess.run(
        [sys.executable, 'tools/train.py', tmp_path / 'config.py'], cwd=ROOT, capture_output=True,
        text=True, env={**os.environ, 'PYTHONPATH': os.pathsep.join(
            [str(Path(__file__).parent), os.environ.get('PYTHONPATH', str(ROOT))])})
    assert result.returncode == 0, result.stderr[-3000:]
    rows = [row for row in read_jsonl(str(tmp_path / 'run/watched.jsonl')) if row['iter'] > WARM]
    found = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    first, last = slice(0, len(rows) // 4), slice(-len(rows) // 4, None)
    growth = 1000 * np.polyfit(found['iter'], found['memory'], 1)[0]
    memory = found['memory'].mean()
    assert growth < 10, f'{growth:.1f} MB in 1,000 iterations'
    assert np.ptp(found['files']) <= 2 and not np.ptp(found['threads'])
    assert not np.ptp(found['children'])
    assert found['objects'][last].max() < 1.05 * found['objects'][first].max()
    seconds = [np.median(found['seconds'][part]) for part in (first, last)]
    assert seconds[1] < 2 * seconds[0]
    assert len(list((tmp_path / 'run').glob('*.pth'))) == 2
    log = sum(path.stat().st_size for path in (tmp_path / 'run').glob('*/**/*') if path.is_file())
    assert log < 10_000 * STEPS
    tried(f'memory {memory:.0f} MB {growth:+.1f} MB in 1,000 iterations; '
          f'{found["files"].min()} to {found["files"].max()} open files; an iteration '
          f'{seconds[0]:.2f} s at first, {seconds[1]:.2f} s at the end; logs '
          f'{log / STEPS / 1000:.1f} kB an iteration')
