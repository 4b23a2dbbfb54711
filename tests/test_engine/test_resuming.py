# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A resumed run has the config's learning rate, schedule and other settings, and says so."""
import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from mmdpad.engine.build import UnsuitableConfig
from mmdpad.engine.resuming import (
    apply_config,
    describe_changes,
    fit_optimizer,
    read_config_text,
)

COSINE = dict(type='CosineAnnealingLR', by_epoch=False, T_max=8, end=8, eta_min=0.01)
WARM_UP = dict(type='LinearLR', by_epoch=False, start_factor=0.1, end=3)
AFTER_IT = dict(type='CosineAnnealingLR', by_epoch=False, begin=3, T_max=5, end=8)


class Training:
    """A model of two layers, an optimizer and schedulers, stepped as mmengine's hook does."""

    def __init__(self, optimizer=None, schedulers=(), per_layer=False, layers=2):
        torch.manual_seed(0)
        self.model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers)))
        optimizer = {'type': 'AdamW', 'lr': 0.1, **(optimizer or {})}
        kind = getattr(torch.optim, optimizer.pop('type'))
        groups = self.model.parameters()
        if per_layer:
            groups = [dict(params=[*layer.parameters()], lr=optimizer['lr'] * (1 + number))
                      for number, layer in enumerate(self.model)]
        self.wrapper = OptimWrapper(kind(groups, **optimizer))
        self.schedulers = [PARAM_SCHEDULERS.build(dict(one, optimizer=self.wrapper))
                           for one in schedulers]
        self.iter = self.epoch = 0
        self.lrs = [self.lr]

    @property
    def lr(self):
        return [group['lr'] for group in self.wrapper.param_groups]

    def run(self, until, epoch_length=2):
        while self.iter < until:
            self.wrapper.update_params(self.model(torch.ones(2)).sum())
            self.iter += 1
            for one in [s for s in self.schedulers if not s.by_epoch]:
                one.step()
            if self.iter % epoch_length == 0:
                self.epoch += 1
                for one in [s for s in self.schedulers if s.by_epoch]:
                    one.step()
            self.lrs.append(self.lr)
        return self

    def save(self):
        return copy.deepcopy(dict(
            meta=dict(iter=self.iter, epoch=self.epoch), optimizer=self.wrapper.state_dict(),
            param_schedulers=[one.state_dict() for one in self.schedulers]))

    def resume(self, checkpoint):
        """As mmengine does, with our part before it."""
        self.lines = apply_config(checkpoint, self.wrapper, self.schedulers)
        self.iter, self.epoch = checkpoint['meta']['iter'], checkpoint['meta']['epoch']
        self.wrapper.load_state_dict(checkpoint['optimizer'])
        for one, state in zip(self.schedulers, checkpoint['param_schedulers'], strict=True):
            one.load_state_dict(state)
        self.lrs = [self.lr]
        return self


@pytest.mark.parametrize('schedulers', [
    [], [COSINE], [WARM_UP, AFTER_IT], [dict(type='StepLR', step_size=2, gamma=0.5)],
    [dict(type='CosineAnnealingMomentum', by_epoch=False, T_max=8, eta_min=0.1)]],
    ids=['none', 'cosine', 'two', 'epochs', 'momentum'])
@pytest.mark.parametrize('per_layer', [False, True])
def test_with_the_same_settings_nothing_changes(schedulers, per_layer):
    checkpoint = Training({}, schedulers, per_layer).run(4).save()
    expected = copy.deepcopy(checkpoint)
    again = Training({}, schedulers, per_layer)
    assert apply_config(checkpoint, again.wrapper, again.schedulers) == []
    assert str(checkpoint) == str(expected)


@pytest.mark.parametrize('before, after, said', [
    ([], [], []),
    ([COSINE], [COSINE], []),
    ([WARM_UP, AFTER_IT], [WARM_UP, AFTER_IT], []),
    ([WARM_UP], [WARM_UP, AFTER_IT], ['param_scheduler 1 of the checkpoint -> LinearLR, '
                                      'CosineAnnealingLR of the config']),
    ([WARM_UP, AFTER_IT], [COSINE], ['param_scheduler 2 of the checkpoint -> CosineAnnealingLR of '
                                     'the config']),
    ([], [COSINE], ['param_scheduler 0 of the checkpoint -> CosineAnnealingLR of the config']),
    ([COSINE], [], ['param_scheduler 1 of the checkpoint -> none of the config']),
    ([dict(COSINE, T_max=4, end=4)], [COSINE],
     [f'param_scheduler.{name} 4 of the checkpoint -> 8 of the config'
      for name in ('T_max', 'end')]),
    ([COSINE], [dict(COSINE, T_max=2, end=2)],
     [f'param_scheduler.{name} 8 of the checkpoint -> 2 of the config'
      for name in ('T_max', 'end')]),
    ([dict(type='StepLR', step_size=1)], [dict(type='StepLR', step_size=2)],
     ['param_scheduler.step_size 1 of the checkpoint -> 2 of the config']),
    ([WARM_UP, dict(type='StepLR', step_size=1)], [WARM_UP, dict(type='StepLR', step_size=3)],
     ['param_scheduler[1].step_size 1 of the checkpoint -> 3 of the config']),
])
@pytest.mark.parametrize('lr', [0.1, 0.05])
@pytest.mark.parametrize('per_layer', [False, True])
def test_the_rate_is_that_of_a_full_run_with_the_new_config(before, after, said, lr, per_layer):
    new = dict(lr=lr, weight_decay=0.5 if lr == 0.05 else 0.01)
    checkpoint = Training({}, before, per_layer).run(4).save()
    moments = copy.deepcopy(checkpoint['optimizer']['state'])
    whole = Training(new, after, per_layer).run(10)
    resumed = Training(new, after, per_layer).resume(checkpoint)
    assert str(resumed.wrapper.state_dict()['state']) == str(moments)
    assert resumed.run(10).lrs == whole.lrs[4:]
    decays = {group['weight_decay'] for group in resumed.wrapper.param_groups}
    assert decays == {new['weight_decay']}
    lrs = ['lr 0.1 of the checkpoint -> 0.05 of the config']
    if per_layer:
        lrs = [f'lr {old} of the checkpoint -> {old / 2} of the config (1 of 2 parameter groups)'
               for old in (0.1, 0.2)]
    ours = [*lrs, 'weight_decay 0.01 of the checkpoint -> 0.5 of the config'] * (lr == 0.05)
    assert resumed.lines == [*ours, *said]


def test_what_was_resumed_can_be_resumed_again():
    first = Training({}, [COSINE]).run(2).save()
    second = Training(dict(lr=0.05), [COSINE]).resume(first).run(4).save()
    third = Training(dict(lr=0.05), [COSINE]).resume(second)
    assert third.lines == [] and third.lr == Training(dict(lr=0.05), [COSINE]).run(4).lr
    plain = Training(dict(lr=0.05)).resume(third.save())  # without a schedule
    assert Training(dict(lr=0.05)).resume(plain.save()).lines == [] and plain.lr == [0.05]


def test_every_kind_of_hyperparameter():
    checkpoint = Training({}).run(2).save()
    resumed = Training(dict(betas=(0.8, 0.99), eps=1e-6, foreach=True)).resume(checkpoint)
    assert resumed.lines == [
        'betas (0.9, 0.999) of the checkpoint -> (0.8, 0.99) of the config',
        'eps 1e-08 of the checkpoint -> 1e-06 of the config',
        'foreach None of the checkpoint -> True of the config']
    assert resumed.wrapper.optimizer.param_groups[0]['betas'] == (0.8, 0.99)


def test_a_momentum_schedule_continues_with_other_betas():
    schedule = [dict(type='CosineAnnealingMomentum', by_epoch=False, T_max=8, eta_min=0.1)]
    checkpoint = Training({}, schedule).run(4).save()
    resumed = Training(dict(betas=(0.8, 0.999)), schedule).resume(checkpoint)
    whole = Training(dict(betas=(0.8, 0.999)), schedule).run(4)
    assert [t.wrapper.optimizer.param_groups[0]['betas'] for t in (resumed, whole)] == [
        ((0.8 - 0.1) / 2 + 0.1, 0.999)] * 2
    assert resumed.lines == [
        'betas (0.9, 0.999) of the checkpoint -> (0.8, 0.999) of the config',
        'momentum 0.9 of the checkpoint -> 0.8 of the config']


def test_a_rate_that_follows_from_validations_cannot_be_changed():
    schedule = [dict(type='ReduceOnPlateauLR', monitor='giou', rule='greater')]
    checkpoint = Training({}, schedule).run(2).save()
    assert Training({}, schedule).resume(checkpoint).lines == []
    with pytest.raises(UnsuitableConfig, match='ReduceOnPlateau .* lr 0.1 .*-> 0.2.*`load_from`'):
        Training(dict(lr=0.2), schedule).resume(checkpoint)


@pytest.mark.parametrize('then', [None, 'AdamW'])
@pytest.mark.parametrize('new, message', [
    (dict(type='SGD', momentum=0.9), 'but got SGD; use that type, or start a new run'),
    (dict(layers=3), r'\(4 in groups of 4\), but the config has others \(6 in groups of 6\)'),
    (dict(layers=1), r'but the config has others \(2 in groups of 2\)'),
    (dict(per_layer=True), r'but the config has others \(4 in groups of 2, 2\)')],
    ids=['type', 'more', 'less', 'groups'])
def test_another_optimizer_is_refused_before_anything_is_loaded(new, message, then):
    saved = Training().run(2).save()['optimizer']
    kind = new.get('type', 'AdamW')
    arguments = dict(new, optimizer=new) if 'type' in new else new
    training = Training(**{name: value for name, value in arguments.items()
                           if name in ('optimizer', 'layers', 'per_layer')})
    texts = [one and f"optim_wrapper = dict(optimizer=dict(type='{one}', lr=0.1))"
             for one in (then, kind)]
    with pytest.raises(UnsuitableConfig, match=message):
        fit_optimizer(saved, training.wrapper, *texts)


@pytest.mark.parametrize('per_layer', [False, True])
@pytest.mark.parametrize('before, after', [(3, 2), (2, 3), (3, 4), (3, 3)])
def test_what_is_not_trained_behind_the_policy_may_change(before, after, per_layer):
    """A decoder, or the reference of a KL term; two layers are trained."""
    runs = []
    for layers in (before, after):
        run = Training({}, [COSINE], per_layer, layers)
        run.model[2:].requires_grad_(False)
        runs.append(run)
    checkpoint = runs[0].run(2).save()
    fit_optimizer(checkpoint['optimizer'], runs[1].wrapper)
    assert runs[1].resume(checkpoint).lines == []
    assert runs[1].lr == runs[0].lr[:2] + runs[1].lr[2:]
    assert str(runs[1].wrapper.state_dict()['state']) == str(checkpoint['optimizer']['state'])
    runs[1].run(3)


def test_parameters_of_other_shapes_are_others():
    saved, training = Training().run(2).save()['optimizer'], Training()
    training.wrapper = OptimWrapper(torch.optim.AdamW(nn.Linear(2, 3).parameters()))
    saved['param_groups'][0]['params'] = [0, 1]
    with pytest.raises(UnsuitableConfig, match='others'):
        fit_optimizer(dict(saved, state={0: saved['state'][0]}), training.wrapper)


def test_a_config_tells_types_that_share_their_settings():
    saved, training = Training().run(2).save()['optimizer'], Training(dict(type='Adam'))
    fit_optimizer(saved, training.wrapper)  # a checkpoint without a config
    with pytest.raises(UnsuitableConfig, match=r'\(AdamW\), but got Adam;'):
        fit_optimizer(saved, training.wrapper, *(
            f"optim_wrapper = dict(optimizer=dict(type='{kind}'))" for kind in ('AdamW', 'Adam')))


class Amp(OptimWrapper):
    """mmengine's AmpOptimWrapper, which asks for a GPU, as far as a resume has to do with it."""

    def __init__(self, optimizer, scale=None, **settings):
        super().__init__(optimizer)
        self._scale_update_param = scale
        self.loss_scaler = torch.amp.GradScaler('cpu', **settings)


@pytest.mark.parametrize('settings, kept, lines', [
    (dict(), 32.0, []),
    (dict(growth_interval=7), 32.0, ['growth_interval 2000 of the checkpoint -> 7 of the config']),
    (dict(scale=8.0, init_scale=8.0), 8.0, ['scale 32.0 of the checkpoint -> 8.0 of the config']),
    (dict(enabled=False), None, None)], ids=['same', 'interval', 'fixed', 'off'])
def test_the_loss_scale_that_was_found_stays_unless_it_is_fixed(settings, kept, lines):
    before = Amp(Training().wrapper.optimizer, init_scale=32.0)
    state = dict(before.state_dict(), loss_scaler=before.loss_scaler.state_dict())
    checkpoint = dict(meta=dict(iter=0, epoch=0), optimizer=state)
    after = Amp(Training().wrapper.optimizer, **settings)
    said = apply_config(checkpoint, after, None)
    after.loss_scaler.load_state_dict(state['loss_scaler'])
    if kept is None:
        assert state['loss_scaler'] == {} and len(said) == 4
        checkpoint['optimizer'] = dict(state, loss_scaler={})  # and on again
        on = Amp(Training().wrapper.optimizer, init_scale=4.0)
        apply_config(checkpoint, on, None)
        on.loss_scaler.load_state_dict(checkpoint['optimizer']['loss_scaler'])
        after, kept = on, 4.0
    else:
        assert said == [f'loss_scale {line}' for line in lines]
    assert after.loss_scaler.get_scale() == kept


def test_other_settings_are_compared_by_the_text_of_the_configs(tmp_path):
    config = dict(
        model=dict(train_cfg=dict(kl_coef=5e-3, clip=(0.2, 0.3))), work_dir='here',
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.1),
                           clip_grad=dict(max_norm=1.0)),
        custom_hooks=[dict(type='AlarmHook', window=20), dict(type='Other')], none=None)
    then = Config(config).pretty_text
    assert read_config_text(then) == {**config, 'model': dict(
        train_cfg=dict(kl_coef=5e-3, clip=[0.2, 0.3]))}
    changed = copy.deepcopy(config)
    changed['model']['train_cfg']['kl_coef'] = 0.0
    changed['custom_hooks'][0]['window'] = 10
    changed['optim_wrapper'].update(optimizer=dict(type='AdamW', lr=0.2), clip_grad=None)
    changed['work_dir'] = 'there'
    assert sorted(describe_changes(then, Config(changed).pretty_text)) == [
        'custom_hooks.0.window 20 -> 10', 'model.train_cfg.kl_coef 0.005 -> 0.0',
        'optim_wrapper.clip_grad (none) -> None', 'optim_wrapper.clip_grad.max_norm 1.0 -> (none)']
    assert describe_changes(then, then) == describe_changes(None, then) == []


def test_another_way_to_write_a_type_is_no_change():
    texts = [f"train_cfg = dict(type='{loop}'{scope})\n"
             f"optim_wrapper = dict(optimizer=dict(type='{optimizer}'))"
             for loop, optimizer, scope in (('GRPOTrainLoop', 'AdamW', ''), (
                 'mmdpad.engine.runner.GRPOTrainLoop', 'torch.optim.AdamW', ", _scope_='mmdpad'"))]
    assert describe_changes(*texts) == describe_changes(*texts[::-1]) == []
    fit_optimizer(Training().run(2).save()['optimizer'], Training().wrapper, *texts)
    other = texts[1].replace('GRPOTrainLoop', 'IterBasedTrainLoop')
    assert len(describe_changes(texts[0], other)) == 1


@pytest.mark.parametrize('text', ['a = (', '\0', 'import os', 'a, b = 1, 2'])
def test_a_text_that_is_no_config(text):
    assert read_config_text(text) == {}


def test_no_code_of_a_config_text_runs(tmp_path):
    text = f'a = open({str(tmp_path / "made")!r}, "w")\nb = dict(c=-1, d=math.inf)'
    assert read_config_text(text)['b'] == dict(c=-1, d='math.inf')
    assert not (tmp_path / 'made').exists()
