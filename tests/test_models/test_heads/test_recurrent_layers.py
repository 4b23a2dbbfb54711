# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Recurrent layers over a row of shared prompts against transformers' own pass over each response
behind a copy of its prompt."""
from types import SimpleNamespace

import pytest
import torch
from transformers import Lfm2Config, Qwen3_5MoeTextConfig, Qwen3_5TextConfig
from transformers.models.lfm2.modeling_lfm2 import Lfm2DecoderLayer
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeGatedDeltaNet

from mmdpad.models.heads import recurrent_layers
from mmdpad.models.heads.packed_attention import PackedGroup
from mmdpad.models.heads.recurrent_layers import RecurrentState, has_recurrence, share_states
from mmdpad.models.heads.shared_prefix import PackedRow

CPU = torch.device('cpu')
WIDTH = 12
SIZES = dict(hidden_size=WIDTH, linear_num_key_heads=1, linear_num_value_heads=2,
             linear_key_head_dim=6, linear_value_head_dim=4, linear_conv_kernel_dim=4)
CONV = dict(hidden_size=WIDTH, intermediate_size=WIDTH, block_multiple_of=1, conv_L_cache=3,
            layer_types=['conv'], num_hidden_layers=1)
# Chunks have 64 tokens, and the convolution sees 3 before each; a prompt or response may be
# shorter, and a response may be empty.
GROUPS = [PackedGroup(70, [5, 0, 66]), PackedGroup(2, [1, 3, 2]), PackedGroup(64, [2, 65, 1])]


@pytest.fixture(params=[(Qwen3_5GatedDeltaNet, Qwen3_5TextConfig, SIZES),
                        (Qwen3_5MoeGatedDeltaNet, Qwen3_5MoeTextConfig, SIZES),
                        (Lfm2DecoderLayer, Lfm2Config, CONV)], ids=['dense', 'moe', 'conv'])
def layer(request, lift):
    """A layer in float64 whose state lasts for many tokens."""
    kind, config, sizes = request.param
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = kind(config(**sizes), 0).double()
        if is_conv(layer):  # a whole decoder layer, whose norms compute in float32
            layer.operator_norm = layer.ffn_norm = torch.nn.Identity()
        else:
            layer.A_log.data.uniform_(-4, -2)
    return layer


def is_conv(layer):
    return isinstance(layer, Lfm2DecoderLayer)


def share(layer):
    """As in a language model with this layer alone."""
    kind = 'conv' if is_conv(layer) else 'linear_attention'
    share_states(SimpleNamespace(config=SimpleNamespace(layer_types=[kind]), layers=[layer]))


def make_row():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, sum(map(len, GROUPS)), WIDTH, dtype=torch.float64,
                       generator=generator).requires_grad_()


def plain(layer, row):
    """Output of a row, computed once per response; a prompt's own part once."""
    outputs, start = [], 0
    for group in GROUPS:
        prompt = row[:, start:start + group.prompt]
        outputs.append(layer(prompt))
        place = start + group.prompt
        for length in group.responses:
            own = row[:, place:place + length]
            outputs.append(layer(torch.cat([prompt, own], dim=1))[:, group.prompt:])
            place += length
        start = place
    return torch.cat(outputs, dim=1)


def output_and_gradients(layer, function):
    row = make_row()
    output = function(row.to(next(layer.parameters()).dtype))
    weights = torch.randn(output.shape, dtype=output.dtype,
                          generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad((output * weights).sum(), [row, *layer.parameters()])
    return [output.detach(), *gradients]


def errors(layer):
    """Relative differences of the output and of each gradient: input, then weights."""
    expected = output_and_gradients(layer, lambda row: plain(layer, row))
    share(layer)
    packed = PackedRow(GROUPS, CPU)
    found = output_and_gradients(layer, lambda row: layer(row, layout=packed))
    return [((x - y).norm() / y.norm()).item() for x, y in zip(found, expected, strict=True)]


def test_output_and_every_gradient_in_float64(layer):
    assert max(errors(layer)) < 1e-13


def test_output_and_every_gradient_in_float32(layer):
    """Chunks begin at other tokens, so sums round in another order."""
    assert max(errors(layer.float())) < 2e-6


def forget(monkeypatch, part):
    """Responses do not get a part of their prompt's state."""
    original = RecurrentState.repeat

    def repeat(self, group_size):
        state = original(self, group_size)
        setattr(state, part, torch.zeros_like(getattr(state, part)))
        return state

    monkeypatch.setattr(RecurrentState, 'repeat', repeat)


def mix_up(monkeypatch):
    """Responses get the state of another prompt."""
    original = RecurrentState.repeat

    def repeat(self, group_size):
        state = original(self, group_size)
        return RecurrentState(*(x.roll(1, dims=0) for x in state.tensors()))

    monkeypatch.setattr(RecurrentState, 'repeat', repeat)


def pad_right(monkeypatch):
    """A prompt's state decays over its padding."""
    spans = recurrent_layers.Spans
    monkeypatch.setattr(recurrent_layers, 'Spans',
                        lambda starts, lengths, device, pads_left: spans(starts, lengths, device))


def stop_gradient(monkeypatch):
    """A prompt's state is a constant."""
    original = RecurrentState.repeat
    monkeypatch.setattr(RecurrentState, 'repeat', lambda self, size: RecurrentState(
        *(x.detach() for x in original(self, size).tensors())))


@pytest.mark.parametrize('fault', [
    lambda patch: forget(patch, 'conv'), lambda patch: forget(patch, 'recurrent'), mix_up,
    pad_right, stop_gradient], ids=['no tail', 'no state', 'mixed up', 'decayed', 'no gradient'])
def test_faults_are_caught(layer, monkeypatch, fault, request):
    if is_conv(layer) and 'no state' in request.node.name:
        pytest.skip('has none')
    fault(monkeypatch)
    assert max(errors(layer)) > 1e-3


def test_nothing_leaks_between_responses_and_groups(layer):
    """The gradient of a response's output is zero but for its prompt and its own tokens."""
    share(layer)
    row = make_row()
    output = layer(row, layout=PackedRow(GROUPS, CPU))
    first = sum(map(len, GROUPS[:2]))  # of the third group: 64 of a prompt, 2, 65, 1
    response = slice(first + 66, first + 66 + 65)
    gradient, = torch.autograd.grad(output[0, response].sum(), row)
    reached = gradient[0].abs().sum(dim=1) > 0
    start = first + 62 if is_conv(layer) else first  # the last two inputs, or all before
    assert reached.nonzero()[:, 0].tolist() == [*range(start, first + 64), *range(
        response.start, response.stop)]


def test_names_stay_and_without_a_layout_the_layer_is_transformers(layer):
    row, names = make_row(), list(layer.state_dict())
    expected = layer(row)
    assert not has_recurrence(layer)
    share(layer)
    assert has_recurrence(layer) and list(layer.state_dict()) == names
    assert layer(row).equal(expected)


@pytest.mark.parametrize('kind, known', [
    ('linear_attention', 'Qwen3_5GatedDeltaNet, Qwen3_5MoeGatedDeltaNet'),
    ('conv', 'Lfm2DecoderLayer')])
def test_an_unknown_class_is_refused(kind, known):
    language = SimpleNamespace(config=SimpleNamespace(layer_types=[kind]),
                               layers=[torch.nn.Linear(2, 2)])
    with pytest.raises(ValueError, match=f'layers of {kind} of {known}, but got Linear without '
                                         f'one; set .*HFRollout'):
        share_states(language)


def test_a_state_by_hand():
    """The last inputs of a convolution over three remain."""
    state = RecurrentState()
    assert state.get_conv_state(0) is None and state.get_recurrent_state(0) is None
    first = state.update_conv_state(torch.tensor([[[1., 2.]]]), 0, conv_kernel_size=3)
    assert first.tolist() == [[[1, 2]]] and state.conv.tolist() == [[[0, 1, 2]]]
    second = state.update_conv_state(torch.tensor([[[4., 5.]]]), 0, conv_kernel_size=3)
    assert second.tolist() == [[[0, 1, 2, 4, 5]]] and state.conv.tolist() == [[[2, 4, 5]]]
    assert [x.tolist() for x in state.repeat(2).tensors()] == [[[[2, 4, 5]]] * 2]
    state.update_recurrent_state(torch.ones(1, 1, 1, 1), 0)
    assert [x.shape[0] for x in state.repeat(3).tensors()] == [3, 3]


def test_responses_of_one_token_are_not_decoded(layer, monkeypatch):
    """Kernels for a single step may have no gradients."""
    monkeypatch.setattr('test_recurrent_layers.GROUPS', [PackedGroup(3, [1, 1]),
                                                         PackedGroup(5, [0, 1])])
    for module in (modeling_qwen3_5, modeling_qwen3_5_moe):
        monkeypatch.setattr(module, 'torch_recurrent_gated_delta_rule', None)
    assert max(errors(layer)) < 1e-13
