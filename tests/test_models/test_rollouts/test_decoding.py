# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch
from same_responses import assert_same
from torch.distributed.fsdp import FSDPModule
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from mmdpad.models import SharedPrefixRollout, VLMReasoningHead
from mmdpad.models.rollouts import decoding, graphs, merged_linear
from mmdpad.models.rollouts.decoding import FusedLayers, decode_step, rotary_table, why_not_fused
from mmdpad.models.rollouts.prefix_cache import PrefixCache
from mmdpad.toy.policy_folder import make_policy_folder

OPTIONS = dict(group_size=2, max_new_tokens=12)


@pytest.fixture
def told(monkeypatch):
    """What the log says."""
    lines = []
    monkeypatch.setattr(decoding, 'print_log', lambda text, **_: lines.append(text))
    return lines


@pytest.fixture
def by_the_model(monkeypatch):
    """Rolls out with the model's own layers."""
    def roll_out(head, prompts, **options):
        with monkeypatch.context() as context:
            context.setattr(decoding, 'why_not_fused', lambda model: 'a test asks so')
            return SharedPrefixRollout(records_log_probs=True)(head, prompts, **options)
    return roll_out


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Weights become views, and adapters products of their own."""
    choose = merged_linear._choose_way
    monkeypatch.setattr(merged_linear, '_choose_way', lambda parts, dtype: (
        'views' if parts and not torch.is_autocast_enabled('cpu') else choose(parts, dtype)))


def make_inputs(model, dtype, heads=2, size=32):
    """A cache of random keys and values, a feed of it, and the other arguments of a step."""
    generator = torch.Generator().manual_seed(0)
    cache = PrefixCache([5, 7], torch.device('cpu'))
    for layer in range(len(model.model.language_model.layers)):
        cache.put_prompts(0, layer, *(
            [torch.randn(heads, length, size, generator=generator).to(dtype)
             for length in cache.lengths] for _ in range(2)))
    attention = model.model.language_model.layers[0].self_attn
    cache.repeats = attention.q_proj.out_features // size // heads
    cache.start_samples(2)
    cache.make_room(2)
    return (cache, cache.feed(torch.arange(8) + 30), torch.tensor([5, 5, 7, 7]),
            rotary_table(model, 20))


def differences(model, dtype, **about):
    """Of the logits of fused layers and of the model's own, relative to the latter."""
    with torch.no_grad():
        inputs = make_inputs(model, dtype, **about)
        expected = decode_step(model, *inputs).double()
        found = decode_step(FusedLayers(model), *inputs).double()
    return (found - expected).norm() / expected.norm()


def make_qwen2():
    text = dict(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, bos_token_id=1, eos_token_id=2,
                rope_parameters=dict(rope_type='default', rope_theta=1e4, mrope_section=[2, 3, 3]))
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(
        text_config=text, vision_config=dict(depth=1, embed_dim=32, hidden_size=64, num_heads=2)))
    model.set_attn_implementation(dict(text_config='shared_prefix', vision_config='sdpa'))
    return model.eval()


@pytest.mark.parametrize('way', ['copies', 'views'])
@pytest.mark.parametrize('dtype, bound', [
    (torch.float64, 1e-14), (torch.float32, 2e-6), (torch.bfloat16, 0.02)])
def test_each_family(head, qwen3_head, request, way, dtype, bound):
    if way == 'views':
        request.getfixturevalue('as_on_a_gpu')
    torch.manual_seed(0)
    families = [(make_qwen2(), 16), (VLMReasoningHead(
        head.source, head.encoder.template).model, 32), (VLMReasoningHead(
            qwen3_head.source, head.encoder.template).model, 16)]
    for model, size in families:
        assert why_not_fused(model) is None
        assert differences(model.to(dtype), dtype, size=size) < bound


@pytest.fixture
def with_experts(tmp_path):
    return VLMReasoningHead(make_policy_folder(tmp_path, 'qwen3_vl_moe')).eval()


@pytest.mark.parametrize('dtype, bound', [
    (torch.float64, 1e-6), (torch.float32, 2e-6), (torch.bfloat16, 0.02)])
def test_experts_are_called_in_layers_that_are_computed(with_experts, dtype, bound):
    """Their router is float32."""
    model = with_experts.model.to(dtype)
    assert why_not_fused(model) is None and FusedLayers(model).ways >= {'calls'}
    assert differences(model, dtype, heads=1, size=16) < bound


def test_experts_under_autocast_bit_for_bit(with_experts):
    with torch.autocast('cpu', torch.bfloat16):
        assert differences(with_experts.model, torch.bfloat16, heads=1, size=16) == 0


def test_under_autocast_bit_for_bit(head):
    with torch.autocast('cpu', torch.bfloat16):
        assert differences(head.model, torch.bfloat16) == 0


@pytest.mark.parametrize('targets', ['language', ['q_proj', 'up_proj', 'lm_head']])
@pytest.mark.parametrize('dtype, bound', [('float32', 2e-6), ('bfloat16', 0.02)])
def test_adapters_as_on_a_gpu(policy_config, as_on_a_gpu, targets, dtype, bound):
    pytest.importorskip('peft')
    head = VLMReasoningHead(**policy_config, dtype=dtype, lora=dict(r=4, target_modules=targets))
    torch.manual_seed(0)
    for name, parameter in head.named_parameters():
        if name in head.adapter_keys:
            parameter.data.normal_(std=0.1)
    assert differences(head.model.eval(), getattr(torch, dtype)) < bound


def test_a_rollout_leaves_the_policy_as_it_was(policy_config, as_on_a_gpu, prompts, by_the_model):
    head = VLMReasoningHead(**policy_config, dtype='float64').eval()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    expected = by_the_model(head, prompts, **OPTIONS)
    for _ in range(2):
        found = SharedPrefixRollout(records_log_probs=True)(head, prompts, **OPTIONS)
        assert_same(found, expected)
        for parameter in head.parameters():
            parameter.data.mul_(1)  # an update in place
    assert all(value.equal(before[name]) for name, value in head.state_dict().items())


def edit_a_row(linear):
    linear.weight.data[7].fill_(1)  # raises no version


def hook(linear):
    linear.register_forward_hook(lambda module, inputs, output: -output)


def replace_forward(linear):
    linear.forward = lambda rows: -torch.nn.functional.linear(rows, linear.weight)


@pytest.mark.parametrize('change', [edit_a_row, hook, replace_forward])
@pytest.mark.parametrize('path', ['lm_head', 'model.language_model.layers.1.mlp.down_proj'])
def test_a_change_between_rollouts_counts(policy_config, prompts, by_the_model, change, path):
    """Even of a policy that nobody trains, and of few values."""
    head = VLMReasoningHead(**policy_config, dtype='float64').eval().requires_grad_(False)
    engine = SharedPrefixRollout(records_log_probs=True)
    before = engine(head, prompts, **OPTIONS)
    change(head.model.get_submodule(path))
    found, expected = engine(head, prompts, **OPTIONS), by_the_model(head, prompts, **OPTIONS)
    assert_same(found, expected)
    assert found.ids.shape != before.ids.shape or not found.logp.allclose(before.logp, atol=1e-4)


class Sharded(torch.nn.Module, FSDPModule):
    """As FSDP2 makes of a module's class."""

    def __new__(cls):
        return torch.nn.Module.__new__(cls)


def watch(model):
    model.model.language_model.layers[1].mlp.register_forward_hook(lambda *_: None)


def replace(model):
    layer = model.model.language_model.layers[1]
    layer.mlp = torch.nn.Sequential(layer.mlp)


def rename(model):
    layer = model.model.language_model.layers[1]
    layer.__class__ = type('MoeDecoderLayer', (type(layer), ), {})


def shard(model):
    model.model.language_model.part = Sharded()


@pytest.mark.parametrize('change, why', [
    (watch, 'a layer has a hook'), (replace, 'mlp of a layer is Sequential'),
    (rename, 'its layers are MoeDecoderLayer'), (shard, 'its weights are sharded')])
def test_what_is_not_understood_is_called(policy_config, head, prompts, told, change, why):
    changed = VLMReasoningHead(**policy_config).eval()
    change(changed.model)
    engine = SharedPrefixRollout()
    for _ in range(2):
        found = engine(changed, prompts, **OPTIONS)
    assert found.ids.equal(SharedPrefixRollout()(head, prompts, **OPTIONS).ids)
    assert len(told) == 1 and why in told[0]


def test_fused_layers_that_differ_are_not_used(head, prompts, told, by_the_model, monkeypatch):
    """As when another version of transformers computes something else in a layer."""
    expected = by_the_model(head, prompts, **OPTIONS)
    del told[:]
    call = decoding._Norm.__call__
    monkeypatch.setattr(decoding._Norm, '__call__', lambda norm, x: call(norm, x) * 1.1)
    engine = SharedPrefixRollout()
    for _ in range(2):
        assert engine(head, prompts, **OPTIONS).ids.equal(expected.ids)
    assert len(told) == 1 and 'off by' in told[0] and 'more than rounding explains' in told[0]


class RulesOut(torch.nn.Module):
    """An output head that rules some tokens out."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, states):
        logits = self.head(states)
        return torch.cat([torch.full_like(logits[..., :9], -torch.inf), logits[..., 9:]], dim=-1)


@pytest.mark.parametrize('gap', [0, 1])
def test_tokens_that_the_head_rules_out(policy_config, prompts, told, gap, monkeypatch):
    """The first step is compared all the same, and only that one."""
    head = VLMReasoningHead(**policy_config).eval()
    head.model.lm_head = RulesOut(head.model.lm_head)
    compare, calls = decoding.Decoding._compare, []
    monkeypatch.setattr(decoding.Decoding, '_compare',
                        lambda self, *inputs: calls.append(compare(self, *inputs)))
    norm = decoding._Norm.__call__
    monkeypatch.setattr(decoding._Norm, '__call__', lambda self, x: norm(self, x) + gap)
    engine = SharedPrefixRollout()
    engine(head, prompts, **OPTIONS)
    assert len(calls) == 1
    assert engine.decoding.compared
    assert len(told) == gap


def test_layers_within_called_modules_are_packed(policy_config, monkeypatch):
    head = VLMReasoningHead(**policy_config).eval()
    inner = head.model.lm_head
    head.model.lm_head = RulesOut(inner)
    monkeypatch.setattr('mmdpad.models.rollouts.packed_linear.MIN_WEIGHTS', 1)
    decode = decoding.Decoding()
    with decode.of(head):
        assert 'forward' in vars(inner)
        with decode.of(head):
            assert 'forward' in vars(inner)
        assert 'forward' in vars(inner)
    assert 'forward' not in vars(inner)


class AsCUDA:
    """The device of a policy, as the decoding sees it."""

    def __init__(self, head):
        self.model, self.device = head.model, torch.device('cuda')


def test_steps_that_cannot_be_captured(head, told, monkeypatch):
    def fail(function):
        raise RuntimeError('operation not permitted when stream is capturing\nmore')

    monkeypatch.setattr(graphs, 'CUDACapture', lambda: fail)
    steps = decoding.Decoding()
    steps.compared = True
    with torch.no_grad():
        inputs = make_inputs(head.model, torch.float32)
        expected = decode_step(head.model, *inputs)
        for number in range(2):
            with steps.of(AsCUDA(head)):
                assert steps.full_grids == (number == 0)
                torch.testing.assert_close(steps(*inputs), expected)
                assert not steps.full_grids
    assert len(told) == 1 and 'CUDA graphs' in told[0]
    assert told[0].endswith('(operation not permitted when stream is capturing)')


def test_a_device_without_memory_is_not_a_step_that_cannot_be_captured(head, told, monkeypatch):
    def fail(function):
        raise torch.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(graphs, 'CUDACapture', lambda: fail)
    steps = decoding.Decoding()
    steps.compared = True
    with torch.no_grad(), steps.of(AsCUDA(head)), pytest.raises(torch.OutOfMemoryError):
        steps(*make_inputs(head.model, torch.float32))
    assert not told and steps.cuda_graphs


def test_no_memory_for_merged_weights(head, prompts, monkeypatch):
    def fail(layers, dtype):
        raise torch.OutOfMemoryError('CUDA out of memory')

    engine = SharedPrefixRollout()
    with monkeypatch.context() as context:
        context.setattr(decoding, 'MergedLinear', fail)
        with pytest.raises(torch.OutOfMemoryError):
            engine(head, prompts, **OPTIONS)
    engine(head, prompts, **OPTIONS)


@pytest.mark.parametrize('asked', [True, False])
def test_what_is_not_captured(policy_config, told, asked, monkeypatch):
    """An output head of another kind is called."""
    head = VLMReasoningHead(**policy_config)
    head.model.lm_head = torch.nn.Sequential(head.model.lm_head)
    steps = decoding.Decoding(cuda_graphs=asked)
    for _ in range(2):
        with steps.of(AsCUDA(head)):
            assert not steps.full_grids
    assert len(told) == asked
