# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Weights in 4 and 8 bits below an adapter, on bitsandbytes' CPU backend."""
from contextlib import nullcontext

import pytest
import torch

from mmdpad.models import HFRollout, ReasoningSegmentor, SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.cost.memory import standing
from mmdpad.models.cost.shapes import PolicyShape
from mmdpad.models.cost.workload import Setup
from mmdpad.models.heads.lora import SCALING
from mmdpad.models.heads.quantization import check_shardable, quantization_config

NF4 = dict(load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_use_double_quant=True,
           bnb_4bit_compute_dtype='float32')
LORA = dict(r=4)
TEXTS = ['a red star', 'no']


@pytest.fixture
def prompts(head):
    image = torch.randint(0, 256, (3, 112, 112), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(0))
    return head.encode_prompts([image], ['the red circle'])


def build(policy_config, quantization, **more):
    pytest.importorskip('peft')
    pytest.importorskip('bitsandbytes')
    return VLMReasoningHead(**policy_config, lora=LORA, quantization=quantization, **more)


@pytest.mark.parametrize('quantization', [NF4, dict(load_in_8bit=True)], ids=['4', '8'])
def test_only_weights_of_4_bits_can_be_sharded(policy_config, quantization):
    policy = build(policy_config, quantization)
    with nullcontext() if quantization is NF4 else pytest.raises(ValueError, match='use 4 bits'):
        check_shardable(policy)


@torch.no_grad()
def log_probs(head, prompts):
    return head.log_probs(prompts, *head.encode_responses(TEXTS))[0]


@pytest.mark.parametrize('quantization, kind', [(NF4, 'Linear4bit'),
                                                (dict(load_in_8bit=True), 'Linear8bitLt')])
def test_only_the_adapter_trains_over_a_quantized_language_model(policy_config, head, prompts,
                                                                 quantization, kind):
    policy = build(policy_config, quantization, gradient_checkpointing=True).train()
    layer = policy.model.model.language_model.layers[0].self_attn.q_proj
    assert type(layer.base_layer).__name__ == kind
    kept = [policy.model.lm_head, policy.model.model.visual.blocks[0].attn.qkv]
    assert all(type(module) is torch.nn.Linear for module in kept)
    base = log_probs(policy, prompts)
    # Rounded, and still the model that it was.
    exact = log_probs(head, prompts)
    assert 1e-4 < (base - exact).norm() / exact.norm() < 0.2
    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=0.5)
    losses = []
    for _ in range(3):
        loss, _ = policy.supervised_loss(prompts, TEXTS)
        loss.backward()
        assert {n for n, p in policy.named_parameters() if p.grad is not None} == (
            policy.adapter_keys)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        # A rollout between updates, in evaluation mode, leaves the weights trainable.
        SharedPrefixRollout()(policy, prompts, max_new_tokens=2)
    assert losses[2] < losses[0]
    assert not log_probs(policy, prompts).equal(base)
    with policy.adapter_off():
        assert log_probs(policy, prompts).equal(base)


def test_rollouts_of_a_quantized_policy_agree(policy_config, prompts):
    policy = build(policy_config, NF4)
    options = dict(group_size=3, max_new_tokens=20)
    assert SharedPrefixRollout()(policy, prompts, **options).ids.equal(
        HFRollout()(policy, prompts, **options).ids)


def test_a_checkpoint_holds_the_adapter_only(policy_config):
    pytest.importorskip('bitsandbytes')
    policy = dict(policy_config, type='VLMReasoningHead', lora=LORA, quantization=NF4)
    model, other = ReasoningSegmentor(policy), ReasoningSegmentor(policy)
    for name, parameter in model.policy.named_parameters():
        if name in model.policy.adapter_keys:
            parameter.data.normal_()
    state = model.state_dict()
    assert {name.removeprefix('policy.') for name in state} == (
        model.policy.adapter_keys | {SCALING})
    assert other.load_state_dict(state).missing_keys == []
    assert all(value.equal(state[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize('double', [True, False])
def test_the_estimate_of_memory_is_what_the_weights_take(policy_config, double):
    policy = build(policy_config, dict(NF4, bnb_4bit_use_double_quant=double))
    from bitsandbytes.nn import Linear4bit
    scales = [module.weight.quant_state for module in policy.modules()
              if isinstance(module, Linear4bit)]
    taken = sum(p.nbytes for n, p in policy.named_parameters() if n not in policy.adapter_keys)
    taken += sum(scale.absmax.nbytes + (scale.state2.absmax.nbytes if double else 0)
                 for scale in scales)
    setup = Setup(lora_rank=4, quantized_bytes=(
        0.5 + 1 / 64 + 4 / (64 * 256) if double else 0.5 + 4 / 64))
    shape = PolicyShape.of(VLMReasoningHead(**policy_config).model.config, LORA)
    assert standing(shape, setup)['weights'] == pytest.approx(taken, rel=1e-3)


@pytest.mark.parametrize('quantization, lora, message', [
    (NF4, None, '`quantization` should come with `lora`'),
    (dict(four_bits=True), LORA, r"BitsAndBytesConfig, but got \['four_bits'\]"),
    (dict(bnb_4bit_quant_type='nf4'), LORA, 'should hold `load_in_4bit=True` or')])
def test_what_does_not_fit_is_refused_before_anything_is_read(quantization, lora, message):
    with pytest.raises(ValueError, match=message):
        VLMReasoningHead('not/read', quantization=quantization, lora=lora)


def test_arguments_reach_bitsandbytes(monkeypatch):
    monkeypatch.setattr('mmdpad.models.heads.quantization.find_spec', lambda name: True)
    kept = ['model.visual', 'lm_head']
    config = quantization_config(NF4, LORA, kept)
    assert config.load_in_4bit and config.bnb_4bit_quant_type == 'nf4'
    assert config.bnb_4bit_compute_dtype == torch.float32 and config.bnb_4bit_use_double_quant
    assert config.llm_int8_skip_modules == kept
    assert quantization_config(dict(NF4, llm_int8_skip_modules=['lm_head']),
                               LORA, kept).llm_int8_skip_modules == ['lm_head']


def test_without_bitsandbytes_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr('mmdpad.models.heads.quantization.find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "mmdpad\[qlora\]"'):
        VLMReasoningHead('not/read', quantization=NF4, lora=LORA)
