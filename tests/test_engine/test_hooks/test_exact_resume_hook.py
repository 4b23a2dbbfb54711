# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner import IterBasedTrainLoop

from mmdpad.engine.hooks import ExactResumeHook
from mmdpad.engine.hooks.exact_resume_hook import random_state, set_random_state
from mmdpad.engine.hooks.safe_checkpoint_hook import find_objects


def draw():
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(),
            torch.rand(()).item()]


def test_random_states_are_plain_data_and_go_through_a_file(tmp_path):
    draw()  # an odd number of normal values: each generator keeps a second one
    torch.save(random_state(), tmp_path / 'a.pth')
    expected = draw()
    state = torch.load(tmp_path / 'a.pth', weights_only=True)
    assert not find_objects(state) and draw() != expected
    set_random_state(state)
    assert draw() == expected


class Noisy:
    """Validation and data draw from all generators."""

    def __init__(self):
        self.runs = 0

    def run(self):
        self.runs += 1
        draw()


def make_runner(iteration, max_iters=8, val_interval=2, **info):
    loop = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
    loop._iter, loop._max_iters, loop.val_begin = iteration, max_iters, 1
    loop.dynamic_milestones, loop.dynamic_intervals = [0], [val_interval]
    loop.dataloader_iterator = ((number, draw()) for number in range(10))
    hub = MessageHub(f'hub{random.random()}')
    for name, value in info.items():
        hub.update_info(name, value)
    return SimpleNamespace(train_loop=loop, val_loop=Noisy(), message_hub=hub, iter=iteration,
                           model=torch.nn.Module(), logger=logging.getLogger('test'))


@pytest.mark.parametrize('validated', [True, False])
def test_data_is_gone_through_and_leaves_the_random_states(validated):
    hook, state = ExactResumeHook(), random_state()
    expected = draw()
    runner = make_runner(4, random_states=[state], iter_of_validation=4 if validated else 2)
    run = runner.val_loop.run

    def run_with_hooks():
        hook.before_val(runner)
        run()
        hook.after_val(runner)

    runner.val_loop.run = run_with_hooks
    hook.before_train_epoch(runner)
    assert runner.val_loop.runs == (not validated)
    skipped = [next(runner.train_loop.dataloader_iterator)[0] for _ in range(4)]
    assert skipped == [0, 1, 2, 3] and draw() == expected
    set_random_state(state)
    assert next(runner.train_loop.dataloader_iterator) == (4, expected)


@pytest.mark.parametrize('iteration, interval, due', [(3, 2, 0), (4, 2, 1), (8, 5, 1), (0, 2, 0)])
def test_a_missed_validation_runs_when_it_was_due(iteration, interval, due):
    runner = make_runner(iteration, val_interval=interval, random_states=[random_state()])
    ExactResumeHook().before_train_epoch(runner)
    assert runner.val_loop.runs == due


def test_a_run_at_its_end_draws_no_data(caplog):
    runner = make_runner(8, random_states=[random_state()], iter_of_validation=8)
    ExactResumeHook().before_train_epoch(runner)
    assert 'iteration 8 of 8; to continue, raise `train_cfg.max_iters`' in caplog.text
    assert [next(runner.train_loop.dataloader_iterator) for _ in range(8)] == [None] * 8


@pytest.mark.parametrize('states', [None, [1, 2]])
def test_another_number_of_processes_is_reported(caplog, states):
    runner = make_runner(4, random_states=states)
    ExactResumeHook().before_train_epoch(runner)
    assert 'there are 1: the run continues, but not exactly' in caplog.text


def test_weights_alone_are_not_resumed_from():
    hook = ExactResumeHook()
    for resume, checkpoint in ((True, dict(optimizer={})), (False, {})):
        hook.after_load_checkpoint(SimpleNamespace(_resume=resume, optim_wrapper=None), checkpoint)
    with pytest.raises(ValueError, match='by `load_from`'):
        hook.after_load_checkpoint(SimpleNamespace(_resume=True), {})
