# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Entries of a config that are valid but would have no effect."""
import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, Hook

from mmdpad.engine.build import UnsuitableConfig, build_runner
from mmdpad.engine.check_config import check_config
from mmdpad.engine.check_effect import OWN_HOOKS, SHIPPED_HOOKS
from mmdpad.preflight import dry_run
from mmdpad.utils import find_config, open_config, override

COSINE = dict(type='CosineAnnealingLR', T_max=2)


def check(config, **entries) -> list[str]:
    """The problems of a config, which the dry run and the start of a run also find."""
    override(config, {key.replace('__', '.'): value for key, value in entries.items()})
    problems = check_config(config).problems
    if problems:
        assert set(problems) <= set(dry_run(config)[0])
        with pytest.raises(UnsuitableConfig):
            build_runner(config)
    return problems


@pytest.mark.parametrize('name, told', [
    ('saef_checkpoint', 'did you mean `safe_checkpoint`?'),
    ('param_schedulers', 'did you mean `param_scheduler`?'),
    ('pictures_of_answers', 'correct or remove it')])
def test_a_switch_without_a_hook(tiny_config, name, told):
    (problem, ) = check(tiny_config, **{f'default_hooks.{name}': None})
    assert problem == (f'`default_hooks.{name}` is None, but there is no hook of that name to '
                       f'switch off; {told}')


@pytest.mark.parametrize('name', ['timer', 'runtime_info', 'curves', 'safe_checkpoint'])
def test_a_switch_of_a_hook(tiny_config, name):
    assert check(tiny_config, **{f'default_hooks.{name}': None}) == []


def test_a_hook_of_the_authors_may_be_switched_off(tmp_path, shapes_data):
    """By a file that inherits it, or a file that sets it to None in another style."""
    base, child = tmp_path / 'base.py', tmp_path / 'child.py'
    base.write_text('default_hooks = dict(mine=dict(type="EmptyCacheHook"))\n')
    child.write_text('_base_ = "base.py"\ndefault_hooks = dict(mine=None, yours=None)\n')
    (problem, ) = [line for line in check_config(open_config(str(child))).problems
                   if 'default_hooks' in line]
    assert problem.startswith('`default_hooks.yours` is None')
    # Without the text of the files, it may be known.
    problems = check_config(Config(dict(default_hooks=dict(mine=None, tmer=None)))).problems
    assert [line for line in problems if 'default_hooks' in line] == [
        '`default_hooks.tmer` is None, but there is no hook of that name to switch off; did you '
        'mean `timer`?']


def test_a_config_written_to_a_file_keeps_its_switches(tiny_config, tmp_path):
    switches = {f'default_hooks.{name}': None for name in (*SHIPPED_HOOKS, 'timer')}
    override(tiny_config, switches | {'custom_hooks': [dict(type='SafeCheckpointHook')]})
    tiny_config.dump(tmp_path / 'written.py')
    assert check(open_config(str(tmp_path / 'written.py'))) == []


def test_the_shipped_hooks():
    shipped = open_config(find_config('_base_/default_runtime')).default_hooks
    assert {*shipped} - {*OWN_HOOKS} == {*SHIPPED_HOOKS} - {'visualization'}


@pytest.mark.parametrize('entries, told', [
    (dict(param_scheduler=[COSINE]), '`param_scheduler.0.by_epoch` should be False for a loop over '
     'iterations, in which no epoch ends before the run does, but is missing and True by default'),
    (dict(param_scheduler=[dict(COSINE, by_epoch=False), dict(COSINE, by_epoch=True)]),
     '`param_scheduler.1.by_epoch` should be False'),
    (dict(default_hooks__checkpoint__by_epoch=True), '`default_hooks.checkpoint.by_epoch` should '
     'be False for a loop over iterations, in which no epoch ends before the run does, but is '
     'True; set it to False, and count in iterations'),
    (dict(custom_hooks=[dict(type='EMAHook', begin_epoch=1)]),
     '`custom_hooks.0.begin_epoch` should not be set for a loop over iterations'),
    (dict(custom_hooks=[dict(type='mmdet.PipelineSwitchHook', switch_epoch=1, switch_pipeline=[])]),
     '`custom_hooks.0.switch_epoch` should not be set')])
def test_epochs_in_a_loop_over_iterations(tiny_config, entries, told):
    (problem, ) = check(tiny_config, **entries)
    assert problem.startswith(told)


@pytest.mark.parametrize('entries', [
    dict(param_scheduler=[dict(COSINE, by_epoch=False)]),
    dict(param_scheduler=[dict(COSINE, convert_to_iter_based=True)]),
    dict(param_scheduler=[dict(type='ReduceOnPlateauLR', monitor='reasonseg/giou')]),
    dict(custom_hooks=[dict(type='EMAHook', begin_iter=1)]),
    dict(train_cfg=dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2),
         custom_hooks=[], param_scheduler=[COSINE]),
    dict(train_cfg=dict(_delete_=True, by_epoch=True, max_epochs=2), custom_hooks=[],
         param_scheduler=[COSINE])])
def test_what_counts_what_the_loop_does(tiny_config, entries):
    assert check(tiny_config, **entries) == []


WARMUP = dict(type='LinearLR', begin=0, by_epoch=False)


@pytest.mark.parametrize('entries, told', [
    (dict(end=1), '`param_scheduler.0` should last at least 2 steps, since mmengine keeps '
     '`start_factor` (0.333333) for the whole training'),
    (dict(begin=4, end=5, start_factor=0.1), '`param_scheduler.0` should last at least 2 steps'),
    (dict(type='LinearMomentum', end=1), '`param_scheduler.0` should last at least 2 steps'),
    (dict(end=5, start_factor=0), '`param_scheduler.0.start_factor` should be greater than 0')])
def test_a_schedule_that_mmengine_does_not_follow_to_its_end(tiny_config, entries, told):
    (problem, ) = check(tiny_config, param_scheduler=[{**WARMUP, **entries}])
    assert problem.startswith(told)


@pytest.mark.parametrize('entries', [
    dict(end=2), dict(end=1, start_factor=1.0),
    dict(end=1, by_epoch=True, convert_to_iter_based=True)])
def test_a_schedule_that_ends(tiny_config, entries):
    assert check(tiny_config, param_scheduler=[{**WARMUP, **entries}]) == []


def test_a_decay_of_norms_that_reaches_no_rms_norm(tiny_config):
    path = 'optim_wrapper__paramwise_cfg'
    (problem, ) = check(tiny_config, **{path: dict(norm_decay_mult=0.0)})
    assert problem.startswith('`optim_wrapper.paramwise_cfg.norm_decay_mult` should be '
                              '`flat_decay_mult`') and problem.endswith('set `flat_decay_mult`')
    assert check(tiny_config, **{path: dict(norm_decay_mult=0.0, flat_decay_mult=0.0)}) == []
    assert check(tiny_config, **{path: dict(norm_decay_mult=1.0)}) == []


class OwnEpochs(Hook):
    """Counts epochs of its own, and reads a value of the log."""

    def __init__(self, by_epoch=True, warmup_epochs=0, monitor='grad_norm'):
        pass


class ByIteration(CheckpointHook):
    def __init__(self, interval=1):
        super().__init__(interval, by_epoch=False)


class PassesOn(CheckpointHook):
    def __init__(self, **kwargs):
        super().__init__(**{'by_epoch': False, **kwargs})


@pytest.mark.parametrize('hook', [
    dict(type=OwnEpochs), dict(type=OwnEpochs, by_epoch=True, warmup_epochs=2, monitor='lr'),
    dict(type=ByIteration, interval=2), dict(type=PassesOn, interval=2)])
def test_arguments_of_the_authors_own_hooks_may_mean_anything(tiny_config, hook):
    assert check(tiny_config, custom_hooks=[hook]) == []


def test_an_argument_that_a_hook_inherits_means_the_same(tiny_config):
    (problem, ) = check(tiny_config, custom_hooks=[dict(type=PassesOn, by_epoch=True)])
    assert problem.startswith('`custom_hooks.0.by_epoch` should be False')


def test_mmengines_own_loop_over_iterations(tiny_config):
    (problem, ) = check(tiny_config, train_cfg=dict(_delete_=True, by_epoch=False, max_iters=2),
                        custom_hooks=[], param_scheduler=[COSINE])
    assert problem.startswith('`param_scheduler.0.by_epoch`')


@pytest.mark.parametrize('entry, told', [
    (dict(momentun=0.1), 'EMAHook takes no argument \'momentun\', but begin_epoch, begin_iter, '
     'device, ema_type, interval, momentum, strict_load, update_buffers; did you mean `momentum`?'),
    (dict(momentum='x'), "`custom_hooks.0.momentum` should be float, but got 'x'"),
    (dict(momentum=2.0), 'momentum must be in range (0.0, 1.0)but got 2.0'),
    (dict(ema_type='ExponentialMovingAvrage'),
     '`custom_hooks.0.ema_type` should be a registered model, but got'),
    (dict(ema_type='mmdet.ExpMomentumEMA', gama=9), 'did you mean `gamma`?')])
def test_arguments_that_a_hook_passes_on(tiny_config, entry, told):
    (problem, ) = check(tiny_config, custom_hooks=[dict(entry, type='EMAHook')])
    assert told in problem


@pytest.mark.parametrize('entry', [
    dict(), dict(momentum=0.01, interval=2), dict(ema_type='StochasticWeightAverage'),
    dict(ema_type='mmdet.ExpMomentumEMA', gamma=9)])
def test_right_arguments_that_a_hook_passes_on(tiny_config, entry):
    assert check(tiny_config, custom_hooks=[dict(entry, type='EMAHook')]) == []
