# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Rollouts that are sampled while earlier ones are trained on (`train_cfg.max_staleness`)."""
import copy
import json
import logging
import random
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mostly_slow import mostly_slow

from mmdpad.engine.runner import pending_rollouts
from mmdpad.engine.runner.pending_rollouts import BatchesAhead, PendingRollouts
from mmdpad.models.non_finite import NonFiniteError
from mmdpad.models.rollouts import SharedPrefixRollout
from mmdpad.registry import HOOKS, MODELS, ROLLOUTS, TRANSFORMS
from mmdpad.rl import PolicyLoss

TIMES = ('time', 'per_second', 'memory', 'eta')


@ROLLOUTS.register_module()
class LateRollout(SharedPrefixRollout):
    """As an engine elsewhere: has copied the weights when `submit` returns, and gives its responses
    only when the loop has waited for all earlier ones and for the update in between.

    Its `events` are what was submitted (numbers of the prompts) and waited for, in order.
    """

    def __init__(self, fails=None, **kwargs):
        super().__init__(records_log_probs=True, **kwargs)
        self.fails = fails
        self.events = []

    def submit(self, head, prompts, **sampling):
        number = sum(event[0] == 'submit' for event in self.events)
        self.events.append(('submit', list(sampling['prompt_numbers'])))
        given = self(head, prompts, **sampling)
        engine = self

        class Late(Future):
            def done(self):
                return False

            def result(self, timeout=None):
                engine.events.append(('wait', number))
                if number == engine.fails:
                    raise NonFiniteError('Logits are not finite', 1)
                return given

        return Late()


@TRANSFORMS.register_module(force=True)
def NoisyImage():
    """A step of a pipeline that draws from NumPy's generator."""
    def step(results):
        noise = np.random.randint(0, 9, results['img'].shape, dtype=np.uint8)
        return dict(results, img=results['img'] ^ noise)
    return step


@HOOKS.register_module()
class UpdateHook(Hook):
    """Adds updates, validations and the order of the prompts to the engine's events."""

    def before_update(self, runner, rollout):
        runner.model.rollout_engine.events.append(('update', runner.iter))
        self.questions = getattr(self, 'questions', [])
        self.questions += [sample.question for sample in rollout.data_samples]


def train(config, folder, k=1, iters=4, engine='SharedPrefixRollout', **changes):
    """A finished run and its log lines without times."""
    config = copy.deepcopy(config)
    config.model.rollout_engine = dict(type=engine)
    if engine == 'SharedPrefixRollout':
        config.model.rollout_engine.records_log_probs = True
    config.merge_from_dict({'train_cfg.max_staleness': k, 'train_cfg.max_iters': iters,
                            'work_dir': str(folder), **changes})
    runner = Runner.from_cfg(config)
    runner.train()
    lines = Path(runner._log_dir, 'vis_data', 'scalars.json').read_text().splitlines()
    return runner, [{name: value for name, value in json.loads(line).items()
                     if not name.endswith(TIMES)} for line in lines]


def weights_of(runner):
    return runner.model.policy.state_dict()


def equal(one, other):
    return all(value.equal(weights_of(other)[name]) for name, value in weights_of(one).items())


def test_each_rollout_is_sampled_k_updates_before_its_own(tiny_config, tmp_path):
    """With no rollout that nobody trains on, and the data in the same order. Validations come in
    between; they and the waiting change nothing."""
    tiny_config.custom_hooks.append(dict(type='UpdateHook'))
    runs = {k: train(tiny_config, tmp_path / str(k), k, engine='LateRollout') for k in (0, 2)}
    steps = [('submit', 0), ('wait', 0), ('submit', 1), ('submit', 2), ('update', 0),
             ('wait', 1), ('submit', 3), ('update', 1), ('wait', 2), ('update', 2),
             ('wait', 3), ('update', 3)]
    expected = {0: [event for i in range(4)
                    for event in (('submit', i), ('wait', i), ('update', i))], 2: steps}
    for k, (runner, lines) in runs.items():
        events = runner.model.rollout_engine.events
        assert [(what, number[0] // 2 if what == 'submit' else number)
                for what, number in events] == expected[k]
        assert [number for what, number in events if what == 'submit'] == [
            [0, 1], [2, 3], [4, 5], [6, 7]]
        assert [line['staleness'] for line in lines] == [0, *[min(i, k) for i in (1, 2, 3)]]
    hooks = [next(hook for hook in runner.hooks if isinstance(hook, UpdateHook))
             for runner, _ in runs.values()]
    assert hooks[0].questions == hooks[1].questions

    # Responses that are not there yet are no part of a checkpoint.
    assert runs[2][0].train_loop.state_dict()['pending'] == [[]]
    _, lines = train(tiny_config, tmp_path / 'resumed', 2, engine='LateRollout', resume=True,
                     load_from=str(tmp_path / '2/iter_2.pth'))
    assert [line['staleness'] for line in lines] == [0, 1]

    local, lines = train(tiny_config_with_validations(tiny_config), tmp_path / 'local', 2)
    assert equal(local, runs[2][0]) and not equal(local, runs[0][0])
    trained = [line for line in lines if 'iter' in line]
    assert len(lines) > len(trained) and trained == runs[2][1]


def tiny_config_with_validations(config):
    config = copy.deepcopy(config)
    config.custom_hooks = [hook for hook in config.custom_hooks if hook['type'] != 'UpdateHook']
    full = type(config).fromfile(
        Path(__file__).parents[3] / 'configs/dpad/tiny_shapes.py')
    for name in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        config[name] = full[name]
    config.val_dataloader.update(num_workers=0, persistent_workers=False)
    config.val_dataloader.dataset.data_root = config.train_dataloader.dataset.data_root
    config.merge_from_dict({'train_cfg.val_interval': 2, 'model.test_cfg.max_new_tokens': 20})
    return config


@pytest.mark.parametrize('copies', [True, False])
def test_weights_are_gathered_only_for_engines_that_sample_from_the_policy(
        tiny_config, tmp_path, monkeypatch, copies):
    """The others take a weight at a time, so that no process needs the whole policy."""
    gathers = []
    monkeypatch.setattr(LateRollout, 'copies_weights', copies)
    monkeypatch.setattr(pending_rollouts, 'gathered',
                        lambda policy: gathers.append(policy) or nullcontext())
    runner, _ = train(tiny_config, tmp_path, iters=1, engine='LateRollout')
    assert gathers == ([] if copies else [runner.model.policy])


def test_an_error_of_a_late_rollout_names_its_sample(tiny_config, tmp_path):
    with pytest.raises(NonFiniteError, match='not finite. The prompt: question '):
        train(tiny_config, tmp_path, engine='LateRollout',
              **{'model.rollout_engine.fails': 1})


ADAPTER = {'model.policy.lora': dict(r=4, lora_alpha=8)}


@pytest.mark.parametrize('k, changes', mostly_slow(
    [(1, {}), (2, {}), (1, ADAPTER)], fast=[(2, {}), (1, ADAPTER)]),
    ids=['1', '2', 'a fixed vision tower'])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tiny_config, tmp_path, k, changes):
    """Also with data that draws in the process that trains."""
    tiny_config.train_dataloader.dataset.pipeline.insert(1, dict(type='NoisyImage'))
    straight, lines = train(tiny_config, tmp_path / 'straight', k, **changes)
    resumed, later = train(tiny_config, tmp_path / 'resumed', k, **changes, resume=True,
                           load_from=str(tmp_path / 'straight/iter_2.pth'))
    assert [line['staleness'] for line in later] == [k, k]
    assert later == lines[2:]
    assert equal(resumed, straight)


def test_settings_may_change_on_resume(tiny_config, tmp_path, capsys):
    """Responses that the new settings would not have sampled are not trained on."""
    train(tiny_config, tmp_path / 'first', iters=3)
    for k, changes, staleness, said in [
            (2, {}, [1, 1, 2], None),  # the third was sampled at once
            (0, {}, [0, 0, 0], '1 rollout(s) that had been sampled ahead of time are sampled '
                                'anew, since `train_cfg.max_staleness` is 0 now'),
            (1, {'model.train_cfg.temperature': 0.9}, [0, 1, 1],
             'since their prompts, images or settings differ now')]:
        capsys.readouterr()
        _, lines = train(tiny_config, tmp_path / str(k), k, resume=True, iters=4,
                         load_from=str(tmp_path / 'first/iter_1.pth'), **changes)
        assert [line['staleness'] for line in lines] == staleness
        output = capsys.readouterr().out
        assert (said or '') in output and ('sampled anew' in output) == bool(said)


def test_on_another_number_of_processes_they_are_sampled_anew(caplog):
    loop = SimpleNamespace(max_staleness=1, runner=SimpleNamespace(
        logger=logging.getLogger('of a run')))
    pending = PendingRollouts(loop)
    with caplog.at_level('WARNING'):
        pending.load_state_dict([[dict(batch=0)], [dict(batch=0)]])
    assert 'the checkpoint is of 2 process(es), but there are 1' in caplog.text
    assert not pending._kept


def test_batches_ahead_are_drawn_again_with_their_random_states():
    def draws():
        while True:
            yield random.random()

    random.seed(0)
    first, between = BatchesAhead(draws()), []
    for _ in range(3):
        batch = next(first)
        between.append(random.random())
        ahead = first.peek(2)
    states, now = dict(first.states), random.getstate()
    assert sorted(states) == [3, 4]
    expected = [next(first), next(first), random.random()]
    assert expected[1] == ahead and batch not in expected

    random.seed(1)  # a resumed run skips what was trained on, in whatever state, and restores it
    again = BatchesAhead(draws(), states=states)
    for _ in range(3):
        next(again)
    random.setstate(now)
    assert [next(again), next(again), random.random()] == expected


@MODELS.register_module()
class UncorrectedLoss(PolicyLoss):
    pass


@pytest.mark.parametrize('changes, message', [
    ({'train_cfg.max_staleness': -1}, '`max_staleness` should be at least 0'),
    ({'train_cfg.max_refills': 1}, r'`max_refills` should be 0 with `max_staleness` \(1\)'),
    ({'model.train_cfg.top_p': 0.9}, '`train_cfg.top_p` should be 1'),
    ({'model.rollout_engine.records_log_probs': False}, 'should record the log-probabilities'),
    ({'model.loss': dict(type='UncorrectedLoss')},
     '`model.loss.type` is UncorrectedLoss, whose `needs_sampling_logp` is False')])
def test_what_does_not_work_with_staleness_is_refused(tiny_config, tmp_path, changes, message):
    changes = {'train_cfg.max_staleness': 1, **changes}
    tiny_config.model.loss = changes.pop('model.loss', tiny_config.model.loss)
    with pytest.raises(ValueError, match=message):
        train(tiny_config, tmp_path, changes.pop('train_cfg.max_staleness'), **changes)


def test_the_correction_can_be_turned_off(tiny_config, tmp_path):
    _, lines = train(tiny_config, tmp_path, iters=2, **{
        'model.loss.importance_cap': None, 'model.rollout_engine.records_log_probs': False})
    assert lines[1]['staleness'] == 1 and 'ess/tokens' not in lines[1]
