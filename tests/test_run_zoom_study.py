# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The launcher of the study of looking again."""
from pathlib import Path

import pytest
from mmengine.config import Config
from study_commands import launcher_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def launcher(monkeypatch):
    with launcher_of('run_zoom_study', 'ZoomRun', 'iter_60.pth', monkeypatch) as module:
        yield module


def test_an_arm_trains_once_and_answers_in_both_modes(launcher, tmp_path):
    run = launcher.ZoomRun(launcher.ZoomArm.of('zoom', True), 1, tmp_path)
    run()
    train, *tests = launcher.calls
    assert train[:2] == ('tools/train.py', str(ROOT / 'configs/dpad/tiny_shapes_zoom.py'))
    assert 'randomness.seed=1' in train
    assert [Path(test[test.index('--out') + 1]) for test in tests] == [
        tmp_path / 'zoom/seed_1' / name for name in ('greedy.json', 'sampled.json')]
    assert all(test[2] == str(run.folder / 'train/iter_60.pth') for test in tests)
    assert run.is_done
    (run.folder / 'sampled.json').unlink()
    launcher.calls.clear()
    assert not run.is_done
    run()
    assert len(launcher.calls) == 1 and 'model.test_cfg.temperature=1.0' in launcher.calls[0]


def test_a_start_policy_is_not_trained_and_answers_greedily_once(launcher, tmp_path):
    arm = launcher.ZoomArm.of('one_look', False)
    for seed, count in ((0, 2), (1, 1)):
        launcher.calls.clear()
        run = launcher.ZoomRun(arm, seed, tmp_path)
        run()
        assert run.is_done and len(launcher.calls) == count
        assert {call[0] for call in launcher.calls} == {'tools/test.py'}


def test_arms_differ_only_in_turns_and_prompt_and_options_exist(launcher, tmp_path):
    launcher.ZoomRun(launcher.ZoomArm.of('zoom', False), 0, tmp_path)()
    one, two = (Config.fromfile(str(ROOT / f'configs/dpad/{name}.py'))
                for name in launcher.CONFIGS.values())
    assert (one.model.conversation.max_turns, two.model.conversation.max_turns) == (1, 2)
    assert '<zoom>' not in one.model.policy.prompt_template
    for config in (one, two):
        config.model.conversation.pop('max_turns')
        config.model.policy.pop('prompt_template')
    assert one.to_dict() == two.to_dict()
    options = launcher.calls[0][launcher.calls[0].index('--cfg-options') + 1:]
    for option in options:
        *keys, last = option.split('=')[0].split('.')
        value = Config.fromfile(str(ROOT / 'configs/dpad/tiny_shapes_zoom.py'))
        for key in keys:
            value = value[int(key) if key.isdigit() else key]
        assert last in value or last in ('out_file', 'seed'), option
