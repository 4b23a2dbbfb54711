# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What the pages say of memory is what the estimate says."""
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mostly_slow import mostly_slow

from mmdpad.preflight.cost import make_report, read_config_cost, with_response_tokens

ROOT = Path(__file__).parents[2]
ROWS = re.findall(r'^\| `(\w+\.py)` \| (.*?) ?\| (\d+) \| (\d+) \|$',
                  (ROOT / 'docs/one_gpu.md').read_text(), re.M)


@pytest.mark.parametrize('name, options, short, long', mostly_slow(
    ROWS, fast=[row for row in ROWS if row[0] == 'qwen7b_qlora_reasonseg.py']))
def test_what_fits_on_one_gpu(name, options, short, long):
    config = Config.fromfile(ROOT / 'configs/dpad' / name)
    for key, value in re.findall(r'`([\w.]+)=([^`]+)`', options):
        config.merge_from_dict({key: int(value) if value.isdigit() else value})
    cost = read_config_cost(config)
    said = [make_report(one)['memory']['peak'] / 1e9
            for one in (cost, with_response_tokens(cost, config, cost.max_tokens))]
    assert said == pytest.approx([int(short), int(long)], abs=0.5)


def test_there_are_rows():
    assert len(ROWS) >= 8


MODELS = {'Qwen2.5-VL-3B': 'qwen3b', 'Qwen2.5-VL-7B': 'qwen7b', 'Qwen2-VL-7B': 'qwen2vl7b',
          'Qwen3-VL-4B': 'qwen3vl4b', 'Qwen3-VL-8B': 'qwen3vl8b',
          'Qwen2.5-VL-7B with LoRA': 'qwen7b_lora', 'with QLoRA': 'qwen7b_qlora',
          'Qwen3-VL-30B-A3B with LoRA': 'qwen3vl30b_a3b_lora', 'GLM-4.1V-9B': 'glm4_1v9b',
          'Qwen3.5-9B': 'qwen3_5_9b', 'InternVL3.5-8B': 'internvl3_5_8b',
          'Qwen3.5-35B-A3B with LoRA': 'qwen3_5_35b_a3b_lora'}


@pytest.mark.parametrize('name', mostly_slow(MODELS, fast=['with QLoRA']))
def test_what_each_model_takes(name):
    text = ' '.join((ROOT / 'docs/models.md').read_text().split())
    (said, ) = re.findall(rf'[,:] {re.escape(name)} (\d+)', text)
    cost = read_config_cost(Config.fromfile(ROOT / f'configs/dpad/{MODELS[name]}_reasonseg.py'))
    assert make_report(cost)['memory']['peak'] / 1e9 == pytest.approx(int(said), abs=1)
