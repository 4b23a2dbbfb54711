# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Weights in which an optimizer's steps are lost are not trained; adapters on them are."""
import json
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from mmdpad.engine.build import UnsuitableConfig, build_runner
from mmdpad.models import VLMReasoningHead
from mmdpad.models.precision import MOVED, find_untrainable, find_wrong_dtype, read_dtype
from mmdpad.preflight import dry_run

ROOT = Path(__file__).parents[2]
REFUSED = [dict(dtype='bfloat16'), dict(dtype='float16'),
           dict(dtype='bfloat16', freeze_vision=True)]
REMEDY = r"should be 'float32' .* set dtype='float32' with .*AmpOptimWrapper.*policy.lora"


@pytest.fixture
def nothing_is_read(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError('weights were read')

    monkeypatch.setattr('mmdpad.models.mapped_weights.load_pretrained', refuse)


@pytest.mark.parametrize('policy', REFUSED, ids=str)
@pytest.mark.parametrize('stage', ['tiny_config', 'tiny_sft_config'])
def test_training_is_refused_before_weights_are_read(policy, stage, request, nothing_is_read):
    config = request.getfixturevalue(stage)
    config.model.policy.update(policy)
    with pytest.raises(UnsuitableConfig, match=REMEDY):
        build_runner(config)
    (problem, ) = dry_run(config)[0]
    assert problem.startswith("`model.policy.dtype` should be 'float32' where weights are trained, "
                              f"but got '{policy['dtype']}', ") and '\n' not in problem
    assert dry_run(config, training=False)[0] == []


def test_smoke_refuses_it(run_here, nothing_is_read):
    found = run_here('tools/train.py', 'configs/dpad/tiny_shapes.py', '--smoke', '--cfg-options',
                     'model.policy.dtype=bfloat16')
    assert found.returncode == 1 and "should be 'float32'" in found.stderr


@pytest.mark.parametrize('stage', ['tiny_config', 'tiny_sft_config'])
def test_mmengines_own_runner_does_not_train_them_either(stage, request):
    config = request.getfixturevalue(stage)
    config.model.policy.dtype = 'bfloat16'
    runner = Runner.from_cfg(config)
    start = {name: value.clone() for name, value in runner.model.state_dict().items()}
    with pytest.raises(ValueError, match=REMEDY):
        runner.train()
    assert all(value.equal(start[name]) for name, value in runner.model.state_dict().items())


def test_evaluation_may_have_them(tiny_config):
    tiny_config.model.policy.dtype = 'bfloat16'
    assert build_runner(tiny_config, training=False).test()


def test_a_switch_lets_other_optimizers_train_them(tiny_sft_config):
    tiny_sft_config.model.policy.update(dtype='bfloat16', low_precision_training=True)
    tiny_sft_config.train_cfg.max_iters = 1
    build_runner(tiny_sft_config).train()


@pytest.mark.parametrize('base', ['bfloat16', 'float16'])
def test_an_adapter_on_them_moves(tiny_sft_config, base, tmp_path):
    """At the recipe's rate for adapters; float32 from the start, in steps, and when resumed."""
    tiny_sft_config.merge_from_dict({
        'model.policy.dtype': base, 'model.policy.lora': dict(r=4), 'train_cfg.max_iters': 3,
        'optim_wrapper.optimizer': dict(type='AdamW', lr=1e-5, _delete_=True)})
    assert find_untrainable(tiny_sft_config.model.policy) is None
    runner = build_runner(tiny_sft_config)
    start = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.train()
    adapter = runner.model.state_dict()
    assert {value.dtype for value in adapter.values()} == {torch.float32}
    moved = [(adapter[f'policy.{name}'] != start[f'policy.{name}']).float().mean()
             for name in runner.model.policy.adapter_keys]
    assert min(moved) > 0.99
    tiny_sft_config.update(resume=True, experiment_name='resumed')
    tiny_sft_config.train_cfg.max_iters = 4
    resumed = build_runner(tiny_sft_config)
    resumed.train()
    assert {p.dtype for p in resumed.model.policy.parameters() if p.requires_grad} == {
        torch.float32}


def test_an_adapter_on_quantized_weights_is_float32(policy_config):
    pytest.importorskip('bitsandbytes')
    head = VLMReasoningHead(**policy_config, dtype='bfloat16', lora=dict(r=4),
                            quantization=dict(load_in_4bit=True))
    assert {p.dtype for p in head.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize('given, advice', [
    ('bf16', "write 'bfloat16'"), ('fp16', "write 'float16'"), ('half', "write 'float16'"),
    (torch.bfloat16, "write 'bfloat16'"), ('bfloat', "write 'bfloat16'"), ('auto', 'correct it'),
    (None, 'correct it'), (16, 'correct it')])
def test_other_names_of_types(given, advice, policy_config):
    told = find_wrong_dtype('model.policy.dtype', given)
    assert told == (f"`model.policy.dtype` should be one of 'float32', 'bfloat16', 'float16', "
                    f"'float64', but got {given!r}; {advice}")
    with pytest.raises(ValueError, match='model.policy.dtype'):
        VLMReasoningHead(**policy_config, dtype=given)


def test_names_of_types():
    assert read_dtype('x', 'bfloat16') is torch.bfloat16
    with pytest.raises(ValueError, match="one of 'float32', but got 'bfloat16'"):
        read_dtype('x', 'bfloat16', ['float32'])


def test_the_numbers_are_those_that_were_measured():
    result = json.loads((ROOT / 'docs/benchmarks/10_weights_of_16_bits.json').read_text())
    ways = result['weights']['1e-06']
    for name, share in MOVED.items():
        assert ways[name]['20 steps']['moved'] == pytest.approx(share, abs=5e-4)
    assert not ways['float16']['1 step']['finite']
    assert ways['bfloat16, stochastic rounding']['20 steps']['arrived'] > 0.99
