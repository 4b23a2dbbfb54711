# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What the documentation shows is what runs."""
import math
import re
import sys
import types
from pathlib import Path

import torch
from mmengine.config import Config

from mmdpad.prompts import parse_response
from mmdpad.rewards import RewardComposition
from mmdpad.structures import RolloutBatch

ROOT = Path(__file__).parents[1]


def test_the_example_of_ones_own_reward_term_trains_from_its_config(tmp_path, monkeypatch):
    module, config = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/method.md').read_text(), re.S)
    (tmp_path / 'my_rewards.py').write_text(module)
    (tmp_path / 'mine.py').write_text(f'_base_ = "{ROOT}/configs/dpad/tiny_shapes.py"\n{config}')
    monkeypatch.syspath_prepend(tmp_path)
    config = Config.fromfile(tmp_path / 'mine.py')
    assert isinstance(sys.modules['my_rewards'], types.ModuleType)
    composition = RewardComposition(config.train_cfg.rewards)
    assert composition.weights['brief'] == 0.5 and len(composition.weights) == 6
    texts = ['<think>a</think>', '<think>long</think>', 'none', '<think></think>']
    rollout = RolloutBatch([0, 1], [0, 1], 2, texts, [parse_response(t) for t in texts],
                           think_tokens=torch.tensor([80., 81., math.nan, 0.]))
    assert composition.terms['brief'](rollout).tolist() == [[1., 0.], [0., 0.]]


def test_every_link_of_the_documents_leads_somewhere():
    for page in [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *ROOT.glob('configs/**/*.md')]:
        for link in re.findall(r'\]\(([^)#]+)\)', page.read_text()):
            assert '://' in link or (page.parent / link).exists(), f'{page.name}: {link}'
