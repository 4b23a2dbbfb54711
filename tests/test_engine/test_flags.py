# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Flags of mmdet's train.py and test.py: what they change in a config, and what is refused."""
from argparse import Namespace
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmdpad.engine import flags
from mmdpad.engine.check_config import check_config
from mmdpad.engine.flags import apply_flags

ROOT = Path(__file__).parents[2]
TINY = 'configs/dpad/tiny_shapes.py'
DETECTOR = 'configs/mmdet/mask-rcnn_r50_fpn_1x_coco_discrimination.py'


@pytest.fixture
def config():
    return Config.fromfile(ROOT / TINY)


def train(config, dry_run=True, **given):
    """The problems with flags of tools/train.py."""
    return apply_flags(config, Namespace(**{
        **dict(amp=False, auto_scale_lr=False, dry_run=dry_run, smoke=False), **given}))


def test(config, **given):
    """The problems with flags of tools/test.py."""
    config.work_dir = 'work_dirs/x'
    return apply_flags(config, Namespace(**{
        **dict(show=False, show_dir=None, wait_time=2.0, tta=False, dry_run=True), **given}))


test.__test__ = False


def test_without_flags_nothing_changes(config):
    before = config.to_dict()
    assert train(config) == [] and config.to_dict() == before
    assert test(config) == [] and config.to_dict() == dict(before, work_dir='work_dirs/x')


def test_all_metrics_go_to_another_file_than_one_of_them(config, tmp_path):
    config.test_evaluator[0].out_file = str(tmp_path / 'all.jsonl')
    assert test(config, out=str(tmp_path / 'more.json')) == []
    problem, = test(config, out=f'{tmp_path}/./all.json')
    assert 'which `test_evaluator.0.out_file`' in problem and problem.endswith('rename one')


def test_amp(config):
    assert train(config, amp=True) == [] and check_config(config).problems == []
    wrapper = config.optim_wrapper
    assert (wrapper.type, wrapper.dtype, wrapper.loss_scale) == (
        'AmpOptimWrapper', 'bfloat16', 'dynamic')

    recipe = Config.fromfile(ROOT / 'configs/dpad/qwen7b_fsdp_reasonseg.py')
    before = recipe.to_dict()
    assert train(recipe, amp=True) == [] and recipe.to_dict() == before, 'it has a precision'

    detector = Config.fromfile(ROOT / DETECTOR)
    assert train(detector, amp=True) == []
    assert detector.optim_wrapper.type == 'AmpOptimWrapper'
    assert detector.optim_wrapper.loss_scale == 'dynamic' and 'dtype' not in detector.optim_wrapper


def test_amp_where_it_cannot_be(config, monkeypatch):
    monkeypatch.setattr(flags, 'get_device', lambda: 'cpu')
    assert train(config, dry_run=False, amp=True) == [
        '--amp needs a GPU, but there is none; leave it out to train here']
    config.optim_wrapper.type = 'ApexOptimWrapper'
    (problem, ) = train(config, amp=True)
    assert "but got 'ApexOptimWrapper'" in problem
    (problem, ) = train(Config(dict(model=config.model)), amp=True)
    assert 'but got None' in problem


def test_auto_scale_lr(tiny_config):
    assert train(tiny_config, auto_scale_lr=True) == []
    assert tiny_config.auto_scale_lr == dict(enable=True, base_batch_size=12)
    runner = Runner.from_cfg(tiny_config)
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.scale_lr(wrapper, runner.auto_scale_lr)
    # Of 2 prompts in a step in place of 12.
    assert wrapper.optimizer.param_groups[0]['lr'] == pytest.approx(2e-4 * 2 / 12)


def test_auto_scale_lr_without_a_base(config):
    config.auto_scale_lr = dict(enable=False)
    (problem, ) = train(config, auto_scale_lr=True)
    assert '`auto_scale_lr.base_batch_size`' in problem and not config.auto_scale_lr.enable
    config.auto_scale_lr = dict(enable=True, base_batch_size=0)
    (problem, ) = check_config(config).problems
    assert problem.startswith('`auto_scale_lr.base_batch_size` should be at least 1, but got 0')


def test_auto_scale_lr_counts_what_a_step_takes(config):
    config.train_cfg.prompts_per_update = 12
    assert train(config, auto_scale_lr=True) == [] and check_config(config).problems == []
    config.train_cfg.prompts_per_update = 4
    (problem, ) = check_config(config).problems
    assert '`train_dataloader.batch_size` (12)' in problem
    assert '`train_cfg.prompts_per_update` is 4' in problem
    config.auto_scale_lr.enable = False
    assert check_config(config).problems == []


def test_show(config, monkeypatch):
    monkeypatch.setattr(flags, '_screenless_backend', lambda: None)
    assert test(config, show=True, show_dir='seen', wait_time=0.5) == []
    assert config.default_hooks.answer_pictures == dict(
        type='ReasonSegVisualizationHook', show=True, wait_time=0.5, test_out_dir='seen')
    config.default_hooks.answer_pictures = None
    assert test(config, show_dir='seen') == []
    assert config.default_hooks.answer_pictures == dict(
        type='mmdpad.ReasonSegVisualizationHook', show=False, wait_time=2.0, test_out_dir='seen')
    assert check_config(config, training=False).problems == []


def test_show_without_default_hooks(config):
    config.default_hooks = None  # of mmengine's own
    assert test(config, show_dir='seen') == []
    assert config.default_hooks.answer_pictures.test_out_dir == 'seen'


def test_show_where_it_cannot_be(config, tmp_path, monkeypatch):
    monkeypatch.setattr(flags, '_screenless_backend', lambda: 'agg')
    file = tmp_path / 'file'
    file.touch()
    waiting, screen, folder = test(config, show=True, show_dir=str(file), wait_time=-1.0)
    assert '--wait-time should be 0' in waiting and 'but got -1;' in waiting
    assert '--show needs a screen' in screen and "'agg'" in screen and '--show-dir' in screen
    assert f'{str(file)!r} is a file' in folder


def test_show_of_a_detector():
    detector = Config.fromfile(ROOT / DETECTOR)
    assert test(detector, show_dir='seen') == []
    hook = detector.default_hooks.visualization
    assert hook.draw and hook.test_out_dir == 'seen' and 'show' not in hook
    assert Path(detector.work_dir).is_absolute(), 'else folders nest, one more for each batch'
    del detector.default_hooks.visualization
    (problem, ) = test(detector, show_dir='seen')
    assert "dict(type='DetVisualizationHook')" in problem


def test_what_opens_no_window_is_known():
    import matplotlib.pyplot as plt
    plt.switch_backend('agg')
    assert flags._screenless_backend() == 'agg'


@pytest.mark.parametrize('command', [
    ('tools/test.py', '--tta'), ('tools/test.py', '--tta', '--dry-run'),
    ('tools/train.py', '--auto-scale-lr', '--dry-run', '--cfg-options',
     'auto_scale_lr.base_batch_size=0')], ids=' '.join)
def test_before_work_starts(command, run_here, tmp_path):
    script, *arguments = command
    told = run_here(script, TINY, '--work-dir', tmp_path / 'run', *arguments)
    assert told.returncode == 1 and not (tmp_path / 'run').exists()
    problem = {'--tta': "flipped images, in which 'left' in a question means right",
               '--auto-scale-lr': 'base_batch_size` should be at least 1, but got 0'}[arguments[0]]
    assert problem in (told.stdout if '--dry-run' in arguments else told.stderr)
