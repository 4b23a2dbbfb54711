# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import copy
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from mmdpad.engine.hooks import SyncReferenceHook
from mmdpad.models.weights import load_safe


def train(config, name='', **changes):
    config = copy.deepcopy(config)
    config.merge_from_dict(changes)
    config.work_dir, config.experiment_name = f'{config.work_dir}{name}', f'sync{name}'
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.slow
def test_the_reference_follows_and_is_resumed(tiny_config):
    """`SyncRefModelCallback` of trl/trainer/callbacks.py, commit f2cd577:
    reference * (1 - alpha) + policy * alpha, every so many steps."""
    tiny_config.model.policy.freeze_vision = True
    tiny_config.custom_hooks = [dict(type='SyncReferenceHook', interval=2, mixup_alpha=0.6)]
    start = state(Runner.from_cfg(tiny_config).model.policy)
    whole = train(tiny_config, **{'train_cfg.max_iters': 4})
    checkpoint = load_safe(str(Path(whole.work_dir, 'iter_2.pth')))
    trained = {name for name, value in whole.model.policy.named_parameters()
               if value.requires_grad}
    assert checkpoint['reference'].keys() == trained < start.keys()
    for name in trained:
        policy = checkpoint['state_dict'][f'policy.{name}']
        torch.testing.assert_close(checkpoint['reference'][name],
                                   0.4 * start[name] + 0.6 * policy)
    assert any(not checkpoint['reference'][name].equal(start[name]) for name in trained)

    resumed = train(tiny_config, '_resumed', **{
        'train_cfg.max_iters': 4, 'resume': True,
        'load_from': str(Path(whole.work_dir, 'iter_2.pth'))})
    for part in ('policy', 'reference'):
        expected = state(getattr(whole.model, part))
        assert all(value.equal(expected[name])
                   for name, value in state(getattr(resumed.model, part)).items())
    frozen = {name for name in start if '.visual.' in name}
    assert frozen and not frozen & trained
    reference = state(resumed.model.reference)
    assert all(reference[name].equal(start[name]) for name in frozen)


@pytest.mark.parametrize('changes, told', [
    ({'model.loss.kl_coef': 0.0}, '`model.loss.kl_coef` is 0'),
    ({'model.policy.lora': dict(r=4)}, 'should be left out with `model.policy.lora`')])
def test_without_a_copy_of_the_start_policy_nothing_starts(tiny_config, changes, told):
    tiny_config.custom_hooks = [dict(type='SyncReferenceHook')]
    with pytest.raises(ValueError, match=told):
        train(tiny_config, **changes)


@pytest.mark.parametrize('settings, told', [
    (dict(interval=0), '`interval` should be at least 1'),
    (dict(mixup_alpha=0.0), r'`mixup_alpha` should be in \(0, 1\]')])
def test_wrong_settings(settings, told):
    with pytest.raises(ValueError, match=told):
        SyncReferenceHook(**settings)
