# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The launcher of the study of detection and question answering."""
from pathlib import Path

import pytest
from mmengine.config import Config
from study_commands import launcher_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def launcher(monkeypatch, tmp_path):
    with launcher_of('run_task_study', 'TaskRun', 'iter_30.pth', monkeypatch) as module:
        module.folder = tmp_path
        yield module


def test_a_run_trains_with_its_arm_and_answers_each_split(launcher):
    run = launcher.TaskRun(launcher.TaskArm.of('ovd', 'rules'), 1, launcher.folder)
    run()
    train, *tests = launcher.calls
    assert train[:2] == ('tools/train.py', str(ROOT / 'configs/dpad/tiny_shapes_ovd.py'))
    assert {'randomness.seed=1', 'custom_hooks=[]'} <= {*train}
    assert [Path(test[test.index('--out') + 1]).name for test in tests] == [
        'greedy.val.json', 'greedy.test.json', 'sampled.test.json']
    assert all(test[2] == str(run.folder / 'train/iter_30.pth') for test in tests)
    assert not any('custom_hooks' in word for test in tests for word in test)
    assert run.is_done
    (run.folder / 'greedy.test.json').unlink()
    assert not run.is_done
    launcher.calls.clear()
    run()
    assert len(launcher.calls) == 1 and 'model.test_cfg.temperature=0.0' in launcher.calls[0]


def test_the_greedy_start_policy_answers_once(launcher):
    for seed in (0, 1):
        launcher.TaskRun(launcher.TaskArm.of('vqa', 'start'), seed, launcher.folder)()
    assert [Path(call[call.index('--out') + 1]).name for call in launcher.calls] == [
        'greedy.test.json', 'sampled.test.json', 'sampled.test.json']
    assert all(call[0] == 'tools/test.py' and call[2] == '--work-dir' for call in launcher.calls)


@pytest.mark.parametrize('task', ['ovd', 'vqa'])
def test_options_choose_the_split_of_the_config_and_where_lines_go(launcher, task):
    for arm in launcher.ARMS:
        launcher.TaskRun(launcher.TaskArm.of(task, arm), 0, launcher.folder)()
    config = Config.fromfile(str(ROOT / f'configs/dpad/tiny_shapes_{task}.py'))
    data = config.test_dataloader.dataset
    assert (data.source if task == 'ovd' else data).ann_file.endswith(
        launcher.TASKS[task]['file'].format('test'))
    assert config.test_evaluator[launcher.TASKS[task]['rewards']].type == 'RewardMetric'
    options = [word for call in launcher.calls for word in call if word.startswith('test_')]
    assert options
    for option in options:
        keys, _ = option.split('=')
        value = config
        for key in keys.split('.')[:-1]:
            value = value[int(key) if key.isdigit() else key]
        assert keys.endswith(('ann_file', 'out_file'))
        if keys.endswith('ann_file'):
            assert 'ann_file' in value
