# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The launcher of the study of selectors."""
from pathlib import Path

import pytest
from mmengine.config import Config
from study_commands import launcher_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def launcher(monkeypatch):
    with launcher_of('run_selection_study', 'SelectionRun', 'iter_90.pth', monkeypatch) as module:
        yield module


def test_the_policy_is_trained_once_and_answers_all_scenes(launcher, tmp_path):
    run = launcher.SelectionRun('trained', ('few', 'many'), 4, tmp_path)
    run()
    train, *tests = launcher.calls
    assert train[:2] == ('tools/train.py', str(ROOT / 'configs/dpad/tiny_shapes_loose_boxes.py'))
    assert [Path(test[test.index('--out') + 1]).name for test in tests] == [
        'few.val.json', 'few.test.json', 'many.val.json', 'many.test.json']
    assert all(test[2] == str(run.folder / 'train/iter_90.pth') for test in tests)
    assert run.is_done
    (run.folder / 'many.val.json').unlink()
    assert not run.is_done
    launcher.calls.clear()
    run()
    assert len(launcher.calls) == 1 and {
        'test_dataloader.dataset.data_root=data/selection_study/many',
        'test_dataloader.dataset.split=val', 'model.test_cfg.num_samples=4'} <= {
            *launcher.calls[0]}


def test_the_start_policy_is_not_trained(launcher, tmp_path):
    launcher.SelectionRun('start', ('few', ), 4, tmp_path)()
    assert [call[:3] for call in launcher.calls] == [
        ('tools/test.py', str(launcher.EVALUATION), '--work-dir')] * 2


def test_options_change_what_the_config_has(launcher, tmp_path):
    launcher.SelectionRun('start', ('few', ), 4, tmp_path)()
    config = Config.fromfile(str(launcher.EVALUATION))
    assert config.test_evaluator[0].type == 'SelectionMetric'
    assert config.model.policy.pretrained == Config.fromfile(
        str(launcher.TRAINING)).model.policy.pretrained
    for option in launcher.calls[0][launcher.calls[0].index('--cfg-options') + 1:]:
        *keys, last = option.split('=')[0].split('.')
        value = config
        for key in keys:
            value = value[int(key) if key.isdigit() else key]
        assert last in value or last == 'out_file', option
