# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Mixtures of experts: computed as transformers computes them, and alike in every pass."""
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextSparseMoeBlock

from mmdpad.models import VLMReasoningHead
from mmdpad.models.heads import experts
from mmdpad.models.heads.experts import NAME, experts_forward, experts_of
from mmdpad.toy.policy_folder import make_policy_folder


def make_block(implementation, dtype=torch.float32, **sizes):
    """A router and its experts, with random weights."""
    config = transformers.Qwen3VLMoeConfig().text_config
    config.update(dict(hidden_size=32, moe_intermediate_size=24, num_experts=8,
                       num_experts_per_tok=2) | sizes)
    config._experts_implementation = implementation
    block = Qwen3VLMoeTextSparseMoeBlock(config).to(dtype)
    generator = torch.Generator().manual_seed(0)
    for parameter in block.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=dtype) * 0.3
    return block


def run(block, states):
    """The output, and the gradients of the states and of every weight."""
    states = states.clone().requires_grad_()
    block.zero_grad()
    output = block(states)
    output.square().sum().backward()
    return [output.detach(), states.grad, *(p.grad.clone() for p in block.parameters())]


@pytest.mark.parametrize('theirs, dtype', [
    ('eager', torch.float32), ('batched_mm', torch.float32), ('grouped_mm', torch.float32),
    ('batched_mm', torch.float64)])
def test_results_are_those_of_transformers(theirs, dtype):
    states = torch.randn(1, 50, 32, generator=torch.Generator().manual_seed(1), dtype=dtype)
    for found, expected in zip(run(make_block(NAME, dtype), states),
                               run(make_block(theirs, dtype), states), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_token_alone_has_the_result_that_it_has_among_others():
    """Routed by itself, and not limited by a capacity."""
    block = make_block(NAME, torch.float64)
    states = torch.randn(1, 40, 32, generator=torch.Generator().manual_seed(1),
                         dtype=torch.float64)
    states[:, 20:] = states[:, :1]  # half of them want the same experts
    together = block(states)
    alone = torch.cat([block(states[:, i:i + 1]) for i in range(40)], dim=1)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_two_passes_with_several_threads_are_equal_in_every_bit():
    block = make_block(NAME, num_experts=16, num_experts_per_tok=8, hidden_size=128)
    states = torch.randn(1, 1000, 128, generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        passes = [run(block, states) for _ in range(5)]
    finally:
        torch.set_num_threads(threads)
    assert all(a.equal(b) for other in passes[1:] for a, b in zip(passes[0], other, strict=True))


@pytest.mark.parametrize('device, dtype, grouped', [
    ('cpu', torch.float32, False), ('cuda', torch.float32, True), ('cuda', torch.bfloat16, True),
    ('cuda', torch.float64, False)])
def test_products_are_grouped_on_a_gpu(device, dtype, grouped, monkeypatch):
    class Experts:
        def forward(self, *args):
            return 'one by one'

    Experts.forward.__wrapped__ = Experts.forward
    monkeypatch.setattr(experts, 'grouped_mm_experts_forward', lambda *args: 'grouped')
    states = SimpleNamespace(device=torch.device(device), dtype=dtype)
    assert experts_forward(Experts(), states, None, None) == (
        'grouped' if grouped else 'one by one')


def test_quantization_leaves_them_as_they_are(tmp_path):
    """bitsandbytes knows linear layers only."""
    pytest.importorskip('bitsandbytes')
    pytest.importorskip('peft')
    head = VLMReasoningHead(make_policy_folder(tmp_path, 'qwen3_vl_moe'), 'find "{question}"',
                            dtype='bfloat16', lora=dict(r=2), quantization=dict(load_in_4bit=True))
    quantized = {name.split('.')[-2] for name, module in head.model.named_modules()
                 if type(module).__name__ == 'Linear4bit' and name.endswith('base_layer')}
    assert quantized == {f'{name}_proj' for name in 'qkvo'}
    assert {p.dtype for block in experts_of(head.model).values()
            for p in block.parameters()} == {torch.bfloat16}
    image = torch.zeros(3, 256, 256, dtype=torch.uint8)
    loss, _ = head.train().supervised_loss(head.encode_prompts([image], ['star']), ['a red star'])
    loss.backward()
    assert all(p.grad is not None for name, p in head.named_parameters()
               if name in head.adapter_keys)


def test_a_budget_counts_an_adapter_of_experts(tmp_path):
    folder = make_policy_folder(tmp_path, 'qwen3_vl_moe')
    lora = dict(r=2, target_parameters=['mlp.experts.down_proj'])
    head = VLMReasoningHead(folder, lora=lora, memory_budget=1.0)
    own = sum(p.numel() for p in head.parameters() if p.requires_grad)
    assert head.memory_budget.shape.adapter_weights(2) == own


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_a_policy_computes_its_experts_so(dtype, tmp_path):
    head = VLMReasoningHead(make_policy_folder(tmp_path, 'qwen3_vl_moe'), dtype=dtype)
    assert len(experts_of(head.model)) == 2
    assert head.model.config.text_config._experts_implementation == NAME
