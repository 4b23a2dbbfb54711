# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import logging
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.runner import Runner

from mmdpad.engine.hooks import AlarmHook
from mmdpad.engine.hooks.alarm_hook import (
    HINTS,
    exceeds,
    format_is_never_right,
    mean_of,
    reasoning_collapses,
    reward_hacking,
    term_saturates,
)
from mmdpad.registry import HOOKS
from mmdpad.utils import raised_alarms

HEALTHY = {'reasoning_tokens': 60., 'empty_think': .02, 'repetition': .05, 'reward': 2.,
           'reward/iou': .5, 'reward_std/iou': .5, 'loss': -.1}


def rows(name, *values, **others):
    return [{name: value, 'iter': i, **others} for i, value in enumerate(values, start=1)]


def play(hook, iterations, validations=(), runner=None):
    """Feed a made run: an iteration is what differs from HEALTHY, None a missing value."""
    runner = runner or SimpleNamespace(
        iter=0, message_hub=MessageHub('test'), logger=logging.getLogger('test'),
        train_loop=SimpleNamespace(stop_training=False))
    hook.before_train(runner)
    for change in iterations:
        outputs = {k: v for k, v in {**HEALTHY, **change}.items() if v is not None}
        hook.after_train_iter(runner, runner.iter, outputs=outputs)
        runner.iter += 1
        if runner.iter in dict(validations):
            hook.after_val_epoch(runner, {'reasonseg/giou': dict(validations)[runner.iter]})
    return runner


SICK = {
    'reasoning_collapses': [{}] * 3 + [{'reasoning_tokens': 14.9}] * 6,
    'reasoning_vanishes': [{}] * 3 + [{'reasoning_tokens': None, 'repetition': None,
                                   'empty_think': 1.0}] * 6,
    'sentences_repeat': [{'repetition': .1 * i} for i in range(9)],
    'samples_are_outdated': [{'ess/tokens': 1.0 - .1 * i} for i in range(9)],
    'term_saturates': [{'reward/iou': 1.0, 'reward_std/iou': 0.0}] * 9,
    'format_is_never_right': [{'reward/thinking_format': 0.0}] * 9,
    'reward_hacking': [{'reward': float(i)} for i in range(9)],
    'not_finite': [{}, {'loss': math.nan, 'grad_norm': math.inf}, {'loss': math.nan}] + [{}] * 6,
}
VALIDATIONS = [(3, 50.), (6, 55.), (9, 52.)]  # 3 percent below the best before


@pytest.mark.parametrize('alarm', HINTS)
def test_each_alarm_goes_off_once_and_alone(alarm, caplog):
    validations = VALIDATIONS if alarm == 'reward_hacking' else [(3, 50.), (9, 55.)]
    play(AlarmHook(window=3), SICK[alarm], validations)
    (warning, ) = caplog.messages
    assert warning.startswith(f'Alarm {alarm} (') and warning.endswith(HINTS[alarm])


def test_the_messages_say_what_and_since_when(caplog):
    play(AlarmHook(window=3), SICK['reasoning_collapses'])
    play(AlarmHook(window=3), SICK['reward_hacking'], VALIDATIONS)
    play(AlarmHook(window=3), SICK['not_finite'])
    collapse, hacking, broken = caplog.messages
    assert '(reasoning_tokens): 14.9 in iterations 4-6, after 60.0 in iterations 1-3.' in collapse
    assert ('52.0 at iteration 9, after 55.0 at iteration 6, while the training reward rose from '
            '4.000 to 7.000.') in hacking
    assert '(values): loss = nan, grad_norm = inf at iteration 2.' in broken


def test_a_healthy_run_is_quiet(caplog):
    # Reasoning that gets shorter by half, a reward that rises, a term that is never earned, gIoU
    # that wavers by less than 2 percent, a value that is now and then missing.
    run = [{'reasoning_tokens': None if i == 10 else 100. - i, 'reward': .05 * i,
            'reward/rare': 0.0, 'reward_std/rare': 0.0} for i in range(50)]
    play(AlarmHook(window=5), run, [(10, 50.), (20, 48.1), (30, 53.), (50, 51.5)])
    assert not caplog.messages


def test_a_format_that_is_lost_later_is_another_alarm(caplog):
    run = [{'reward/thinking_format': value} for value in [0.0, 0.0, 0.1] + [0.0] * 9]
    play(AlarmHook(window=3), run)
    assert not caplog.messages


def test_a_falling_reward_is_not_hacking(caplog):
    play(AlarmHook(window=3), [{'reward': -float(i)} for i in range(9)], VALIDATIONS)
    assert not caplog.messages


@pytest.mark.parametrize('iterations', [
    [{'reasoning_tokens': None, 'repetition': None, 'reward': None, 'reward_std/iou': None}] * 9,
    [dict.fromkeys(HEALTHY)] * 9,
    [{'reasoning_tokens': None}] * 3 + [{}] * 6,
])
def test_missing_values_are_no_alarm_and_no_error(iterations, caplog):
    play(AlarmHook(window=3), iterations, VALIDATIONS)
    assert not caplog.messages


def test_a_validation_before_any_training_and_without_the_metric(caplog):
    hook = AlarmHook(window=2)
    runner = play(hook, [])
    hook.after_val_epoch(runner, {'reasonseg/giou': 50.0})
    play(hook, [{}] * 2, runner=runner)
    hook.after_val_epoch(runner, {'reasonseg/giou': math.nan})
    hook.after_val_epoch(runner, {'reward/total': 1.0})
    hook.after_val_epoch(runner)
    assert hook.history['validations'] == [] and not caplog.messages


def test_a_second_term_that_saturates_is_reported_too(caplog):
    play(AlarmHook(window=2), [{'reward/a': 1., 'reward_std/a': 0., 'reward/b': 1.,
                                'reward_std/b': max(0., 3. - i)} for i in range(6)])
    assert [message.split(':')[0] for message in caplog.messages] == [
        'Alarm term_saturates (a)', 'Alarm term_saturates (b)']
    assert 'iterations 1-2' in caplog.messages[0] and 'iterations 4-5' in caplog.messages[1]


def test_functions_by_hand():
    first, now = rows('reasoning_tokens', 30., 50.), rows('reasoning_tokens', 9., 10., math.nan)
    assert mean_of(first, 'reasoning_tokens') == 40 and mean_of(now, 'reasoning_tokens') == 9.5
    assert reasoning_collapses(first, now, 0.25) == {
        'reasoning_tokens': '9.5 in iterations 1-3, after 40.0 in iterations 1-2'}
    assert not reasoning_collapses(first, now, 9.5 / 40) and not reasoning_collapses([{}], now, 1.0)
    assert exceeds(now, 'reasoning_tokens', 9.4) and not exceeds(now, 'reasoning_tokens', 9.5)
    assert not exceeds(now, 'other', 0.0)
    stds = {'reward_std/x': 0.01}
    assert list(term_saturates(rows('reward/x', .9, .9, **stds), 0.01)) == ['x']
    for values in ([.9, .8], [.9, math.nan], [0., 0.], [-1., -1.]):
        assert not term_saturates(rows('reward/x', *values, **stds), 0.01)
    assert format_is_never_right(rows('reward/answer_format', 0., 0.)) == {
        'answer_format': '0 for every response of iterations 1-2'}
    for name, values in (('reward/my_format', [0., 1e-9]), ('reward/my_format', [0., math.nan]),
                         ('reward/iou', [0., 0.]), ('reward_std/my_format', [0., 0.])):
        assert not format_is_never_right(rows(name, *values))
    validations = [{'iter': i, 'vqa/accuracy': g, 'reward': r} for i, g, r in
                   ((1, 60., 1.), (2, 50., 5.), (3, 58., 1.1))]
    for some, drop, found in ((3, 2.0, True), (2, 2.0, True), (3, 2.1, False), (1, 0.0, False)):
        assert bool(reward_hacking(validations[:some], 'vqa/accuracy', drop)) == found


@pytest.mark.parametrize('stop, stops', [
    (False, False), (True, True), (['reasoning_vanishes'], False),
                                         (['reasoning_vanishes', 'not_finite'], True)])
def test_stop_says_which_alarms_end_the_run(stop, stops, caplog):
    runner = play(AlarmHook(window=3, stop=stop), SICK['not_finite'])
    assert runner.train_loop.stop_training is stops
    assert caplog.messages[0].endswith('The run is stopped.') is stops


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError,
                       match=r"got \['reasoning_colapses'\]; the names are .*_collapses, "):
        AlarmHook(stop=['reasoning_colapses'])
    with pytest.raises(ValueError, match="got 'not_finite'"):
        AlarmHook(stop='not_finite')
    with pytest.raises(ValueError, match='`window` should be at least 1 .*got 0'):
        AlarmHook(window=0)


@HOOKS.register_module()
class SpoilingHook(Hook):
    """Makes all reasoning short from the second iteration on."""
    priority = 'ABOVE_NORMAL'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        outputs['reasoning_tokens'] = 20.0 if batch_idx == 0 else 1.0


def test_stop_ends_a_run_and_a_resumed_one_remembers(tiny_config, tmp_path):
    tiny_config.merge_from_dict({
        'train_cfg.max_iters': 6, 'log_level': 'WARNING',
        'default_hooks.alarms': dict(type='AlarmHook', window=2, stop=['reasoning_collapses'])})
    tiny_config.custom_hooks = [dict(type='SpoilingHook')]
    runner = Runner.from_cfg(tiny_config)
    runner.train()
    # 1.0 in iterations 2-3 is below a quarter of (20 + 1) / 2.
    assert runner.iter == 3
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    assert log.count('Alarm reasoning_collapses (reasoning_tokens): 1.0 in iterations 2-3') == 1
    *_, alarm = raised_alarms(runner.work_dir)
    assert alarm.startswith('reasoning_collapses (reasoning_tokens): 1.0 in')
    assert 'is stopped.' in alarm
    assert [path.name for path in sorted(Path(runner.work_dir).glob('*.pth'))] == [
        'iter_1.pth', 'iter_2.pth', 'iter_3.pth']

    # Resumed where the alarm was reported already, so that the run continues.
    tiny_config.merge_from_dict({'resume': True, 'train_cfg.max_iters': 4,
                                 'load_from': f'{runner.work_dir}/iter_3.pth',
                                 'work_dir': str(tmp_path / 'resumed')})
    tiny_config.experiment_name += '_resumed'
    resumed = Runner.from_cfg(tiny_config)
    resumed.train()
    assert resumed.iter == 4
    history = resumed.message_hub.get_info('alarms')
    assert [row['iter'] for row in history['first'] + history['recent']] == [1, 2, 3, 4]
    assert 'Alarm' not in next(Path(resumed.log_dir).glob('*.log')).read_text()


@pytest.mark.parametrize('change, again', [(dict(), 0), (dict(stop=['not_finite']), 1),
                                           (dict(window=2), 1), (dict(window=5), 1)])
def test_with_other_arguments_a_resumed_run_may_warn_again(change, again, caplog):
    runner = play(AlarmHook(window=3), [{}] * 4 + [{'loss': math.nan}])
    caplog.clear()
    hook = AlarmHook(**{'window': 3, **change})
    play(hook, [{'loss': math.nan}], runner=runner)
    assert len([text for text in caplog.messages if 'Alarm not_finite' in text]) == again
    assert runner.train_loop.stop_training == bool(change.get('stop'))
    assert [row['iter'] for row in hook.history['first']] == [1, 2, 3][:hook.window]


def test_a_window_that_grows_takes_no_late_iterations_for_the_first():
    runner = play(AlarmHook(window=2), [{}] * 6)
    hook = AlarmHook(window=4)
    play(hook, [{}] * 2, runner=runner)
    assert [row['iter'] for row in hook.history['first']] == [1, 2]
