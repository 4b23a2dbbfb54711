# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import mmdet
import pytest

from mmdpad.engine.runner import LocalVisBackend
from mmdpad.registry import VISBACKENDS

TOOL = Path(mmdet.__file__).parent / '.mim/tools/analysis_tools/analyze_logs.py'


@pytest.fixture
def scalars(tmp_path):
    """Three lines of training, and a validation between them."""
    backend = VISBACKENDS.build(dict(type='LocalVisBackend', save_dir=str(tmp_path)))
    assert type(backend) is LocalVisBackend
    for step in (1, 2, 3):
        backend.add_scalars({'lr': 0.5, 'reward/total': 9.0, 'loss': step / 10, 'time': step * 2.0,
                             'iter': step}, step)
        if step == 2:
            backend.add_scalars({'reasonseg/giou': 80.0, 'data_time': 0.1, 'time': 100.0}, step)
    return tmp_path / 'scalars.json'


def test_lines_hold_what_mmengine_writes(scalars):
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert lines[0] == {'lr': 0.5, 'reward/total': 9.0, 'loss': 0.1, 'time': 2.0, 'iter': 1,
                        'step': 1}
    assert list(lines[0]) == ['lr', 'loss', 'time', 'iter', 'step', 'reward/total']
    assert lines[2] == {'reasonseg/giou': 80.0, 'data_time': 0.1, 'time': 100.0, 'step': 2}


def test_mmdets_tool_finds_loss_and_time(scalars, tmp_path, capsys, monkeypatch):
    style = ModuleType('seaborn')  # which is not needed by anything else
    style.set_style = lambda name: None
    monkeypatch.setitem(sys.modules, 'seaborn', style)
    with patch('matplotlib.pyplot.plot') as plot:
        for arguments in (['plot_curve', scalars, '--keys', 'loss', '--legend', 'loss', '--out',
                           tmp_path / 'loss.png'], ['cal_train_time', scalars]):
            monkeypatch.setattr(sys, 'argv', ['analyze_logs.py', *map(str, arguments)])
            runpy.run_path(str(TOOL), run_name='__main__')
    steps, losses = plot.call_args.args
    assert steps.tolist() == [1, 2, 3] and losses.tolist() == [0.1, 0.2, 0.3]
    # The first is left out as an outlier: (4 + 6) / 2, without the validation's 100.
    assert 'average iter time: 5.0000 s/iter' in capsys.readouterr().out
