# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import shutil
from pathlib import Path

import pytest

from mmdpad.engine.build import UnsuitableConfig, build_runner
from mmdpad.utils import override


def test_a_default_hook_that_is_none_is_left_out(tiny_config):
    for name in ('rollout_log', 'timer', 'curves'):
        tiny_config.default_hooks[name] = None
    names = {type(hook).__name__ for hook in build_runner(tiny_config).hooks}
    assert not names & {'RolloutLogHook', 'IterTimerHook', 'CurvesHook'}
    assert 'ProvenanceHook' in names


def test_a_test_builds_nothing_for_training(tiny_config):
    """mmengine's EarlyStoppingHook would."""
    override(tiny_config, {
        'train_dataloader.dataset.data_root': 'none', 'custom_hooks': [
            dict(type='EarlyStoppingHook', monitor='reasonseg/giou', rule='greater')]})
    runner = build_runner(tiny_config, training=False)
    runner.call_hook('before_run')
    assert isinstance(runner._train_loop, dict)


def test_a_package_that_an_engine_needs_is_named(tiny_config, monkeypatch):
    monkeypatch.setattr('mmdpad.models.rollouts.vllm_rollout.find_spec', lambda name: None)
    override(tiny_config, {'model.rollout_engine': dict(type='VLLMRollout')})
    with pytest.raises(UnsuitableConfig, match='^`model.rollout_engine`: .*needs vllm'):
        build_runner(tiny_config)


def test_shards_need_a_launcher(tiny_config):
    override(tiny_config, {'strategy': dict(type='mmdpad.FSDP2Strategy')})
    with pytest.raises(UnsuitableConfig, match='use tools/dist_train.sh CONFIG GPUS, or leave'):
        build_runner(tiny_config)


@pytest.mark.parametrize('key, value, message', [
    ('train_cfg.rewards', ['format'], '`train_cfg.rewards` should be dict'),
    ('model.train_cfg', [1], '`model.train_cfg` should be dict or None'),
    ('train_dataloader.dataset.data_root', ['/data/a', 'b'], '`train_dataloader.dataset.data_root` '
     'should be str'),
    ('default_hooks', 'none', '`default_hooks` should be dict or None'),
    ('custom_hooks.0.weight', 'much', "`custom_hooks.0.weight` should be float, but got 'much'")])
def test_arguments_of_a_wrong_type_are_named(tiny_config, key, value, message):
    override(tiny_config, {key: value})
    with pytest.raises(UnsuitableConfig, match=message):
        build_runner(tiny_config)


@pytest.mark.parametrize('name', ['config.json', 'tokenizer.json'])
@pytest.mark.parametrize('training', [True, False])
def test_an_incomplete_policy_is_reported_line_by_line(tiny_config, tmp_path, name, training):
    whole = tiny_config.model.policy.pretrained
    folder = Path(shutil.copytree(whole, tmp_path / 'policy'))
    tiny_config.model.policy.pretrained = str(folder)
    (folder / name).unlink()
    with pytest.raises(UnsuitableConfig) as refusal:
        build_runner(tiny_config, training)
    assert f'no {name}' in str(refusal.value) or f'neither {name}' in str(refusal.value)
    assert all(line.startswith('`model.policy`: ') for line in str(refusal.value).splitlines())
