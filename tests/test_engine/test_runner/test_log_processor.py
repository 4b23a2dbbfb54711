# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
from pathlib import Path

from mmengine.runner import Runner


def test_details_are_in_the_numbers_and_not_in_the_line(tiny_config):
    tiny_config.train_cfg.max_iters = 1
    tiny_config.log_level = 'INFO'
    runner = Runner.from_cfg(tiny_config)
    runner.train()
    (log, ) = Path(runner.log_dir).glob('*.log')
    (line, ) = [line for line in log.read_text().splitlines() if 'Iter(train)' in line]
    numbers = json.loads(Path(runner.log_dir, 'vis_data/scalars.json').read_text())
    for shown in ('reward: ', 'reward/box_iou: ', 'think_tokens: ', 'kl: ', 'clip_frac: ',
                  'entropy: ', 'tokens_per_second: ', 'eta: '):
        assert f'  {shown}' in line
    for detail in ('reward_std/box_iou', 'failed/no_json', 'pg', 'signal/s_roi', 'data_time'):
        assert detail in numbers and f'{detail}: ' not in line
    assert len(line) < 600
