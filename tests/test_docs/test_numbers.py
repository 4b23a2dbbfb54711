# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What the pages say of memory is what the estimate says."""
import re
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdpad.preflight.cost import make_report, read_config_cost, with_response_tokens

ROOT = Path(__file__).parents[2]
ROWS = re.findall(r'^\| `(\w+\.py)` \| (.*?) ?\| (\d+) \| (\d+) \|$',
                  (ROOT / 'docs/one_gpu.md').read_text(), re.M)


@pytest.mark.parametrize('name, options, short, long', ROWS)
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
