# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
from pathlib import Path
from types import SimpleNamespace

from mmengine.logging import MessageHub
from mmengine.runner import Runner

from mmdpad.engine.runner import ShortLogProcessor


def test_details_are_in_the_numbers_and_not_in_the_line(tiny_config):
    tiny_config.train_cfg.max_iters = 1
    tiny_config.log_level = 'INFO'
    runner = Runner.from_cfg(tiny_config)
    runner.train()
    (log, ) = Path(runner.log_dir).glob('*.log')
    (line, ) = [line for line in log.read_text().splitlines() if 'Iter(train)' in line]
    numbers = json.loads(Path(runner.log_dir, 'vis_data/scalars.json').read_text())
    for shown in ('reward: ', 'reward/box_iou: ', 'reasoning_tokens: ', 'kl: ', 'clip_frac: ',
                  'entropy: ', 'tokens_per_second: ', 'eta: '):
        assert f'  {shown}' in line
    for detail in ('reward_std/box_iou', 'failed/no_json', 'pg', 'signal/s_roi', 'data_time'):
        assert detail in numbers and f'{detail}: ' not in line
    assert len(line) < 600


def test_a_validation_has_its_own_numbers():
    """Means over iterations were once means over validations, too."""
    hub = MessageHub('test_a_validation_has_its_own_numbers')
    for giou in (10.0, 20.0):
        hub.update_scalar('val/reasonseg/giou', giou)
        hub.update_scalar('train/reward', giou)
    runner = SimpleNamespace(message_hub=hub, val_loop=SimpleNamespace(dataloader=[None]))
    processor = ShortLogProcessor(window_size=5, mean_pattern='.*', by_epoch=False)
    numbers, line = processor.get_log_after_epoch(runner, 1, 'val')
    assert numbers['reasonseg/giou'] == 20 and 'reasonseg/giou: 20.0' in line
    assert processor.mean_pattern.pattern == '.*'
