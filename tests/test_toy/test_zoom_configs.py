# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The toy configs of looking again, and their start policy."""
import subprocess
import sys
from pathlib import Path

import pytest

from mmdpad.engine.build import build_runner

CONVERTER = Path(__file__).parents[2] / 'tools/dataset_converters/shapes_world.py'


@pytest.mark.slow
@pytest.mark.parametrize('name, turns', [('zoom', 2), ('one_look', 1)])
def test_it_trains_and_the_start_policy_looks_closer_if_it_may(name, turns, tiny_task_config,
                                                               tmp_path):
    data = tmp_path / 'tiny'
    subprocess.run([sys.executable, CONVERTER, data, '--world', 'tiny', '--train', '6', '--val',
                    '0', '--test', '24'], check=True)
    config = tiny_task_config(name)
    for split in ('train', 'test'):
        config[f'{split}_dataloader'].dataset.data_root = str(data)
    before = build_runner(config, training=False).test()
    assert before['reward/thinking_format'] >= 0.9
    assert before['reward/turn_cost'] <= (-0.5 if turns == 2 else 0)
    # By chance, a crop of 60 pixels rarely has a target in 1,120.
    assert before['reward/crop_contains_target'] >= (0.3 if turns == 2 else 0)
    config.experiment_name += '_train'
    runner = build_runner(config)
    runner.train()
    assert runner.iter == 2
