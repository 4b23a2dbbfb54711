# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.runner import Runner
from PIL import Image

from mmdpad.engine.hooks import CurvesHook
from mmdpad.engine.hooks import curves_hook as module
from mmdpad.utils import write_jsonl


def test_a_resumed_run_has_its_curves_from_the_start(tiny_config, monkeypatch):
    drawn, plot = [], module.plot_curves
    monkeypatch.setattr(module, 'plot_curves',
                        lambda logs, out: drawn.append(logs) or plot(logs, out))
    tiny_config.default_hooks.curves = dict(type='CurvesHook')
    tiny_config.train_cfg.max_iters = 1
    first = Runner.from_cfg(tiny_config)
    first.train()
    assert Image.open(Path(first.log_dir, 'curves.png')).size[0] > 1000
    tiny_config.merge_from_dict({'resume': True, 'load_from': f'{first.work_dir}/iter_1.pth',
                                 'train_cfg.max_iters': 2})
    tiny_config.experiment_name += '_resumed'
    second = Runner.from_cfg(tiny_config)
    second.train()
    assert Path(second.log_dir, 'curves.png').is_file()
    assert drawn[1] == [f'{run.log_dir}/vis_data/scalars.json' for run in (first, second)]


@pytest.mark.parametrize('rows, found', [
    (None, 'no log; draw'),
    ([dict(iter=1, step=1, loss=1.0)], r".*scalars.json: \['iter', 'loss', 'step'\]; draw")])
def test_without_numbers_nothing_is_drawn_and_the_log_says_so(tmp_path, caplog, rows, found):
    if rows:
        write_jsonl(str(tmp_path / '1/vis_data/scalars.json'), rows)
    runner = SimpleNamespace(work_dir=str(tmp_path), log_dir=str(tmp_path / '1'),
                             logger=logging.getLogger('test'))
    with caplog.at_level(logging.INFO):
        CurvesHook().after_train(runner)
    assert not list(tmp_path.rglob('*.png'))
    assert re.match(f'No training curves are drawn: The logs of a run should have .*, but got '
                    f'{found} a run of `GRPOTrainLoop`', caplog.messages[0])
