# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import copy
import json
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

RECORDING = dict(type='SharedPrefixRollout', records_log_probs=True)
TIMES = ('time', 'per_second', 'memory', 'eta')


def train(config, folder, k=1, iters=4, **changes):
    """A finished run and its log lines without times."""
    config = copy.deepcopy(config)
    config.model.rollout_engine = RECORDING
    config.merge_from_dict({'train_cfg.max_staleness': k, 'train_cfg.max_iters': iters,
                            'work_dir': str(folder), **changes})
    runner = Runner.from_cfg(config)
    runner.train()
    lines = Path(runner._log_dir, 'vis_data', 'scalars.json').read_text().splitlines()
    return runner, [{name: value for name, value in json.loads(line).items()
                     if not name.endswith(TIMES)} for line in lines]


@pytest.mark.parametrize('k', [1, 2])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tiny_config, tmp_path, k):
    straight, lines = train(tiny_config, tmp_path / 'straight', k)
    print([line['staleness'] for line in lines], lines[-1])
    resumed, later = train(tiny_config, tmp_path / 'resumed', k, resume=True,
                           load_from=str(tmp_path / 'straight/iter_2.pth'))
    assert later == lines[2:]
