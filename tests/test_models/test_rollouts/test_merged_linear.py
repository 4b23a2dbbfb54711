# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mmdpad.models.rollouts import merged_linear
from mmdpad.models.rollouts.merged_linear import MergedLinear

WIDTH = 512


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def layers():
    """Large enough to be packed together, with and without a bias."""
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(WIDTH, 1024), nn.Linear(WIDTH, 64),
                          nn.Linear(WIDTH, 64, bias=False)])


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(merged_linear, '_choose_way', lambda parts, dtype: (
        'views' if parts else 'calls'))


def adapt(layers, **options):
    """Adds adapters with an effect to the first two layers; the same module otherwise."""
    peft = pytest.importorskip('peft')
    model = nn.ModuleDict(dict(zip('qkv', layers, strict=True)))
    peft.LoraModel(model, peft.LoraConfig(**{'r': 4, 'target_modules': ['q', 'k'],
                                             'rank_pattern': {'k': 2}, **options}), 'default')
    for name, parameter in model.named_parameters():
        if 'lora_' in name:
            parameter.data.normal_(std=0.1)
    return list(model.values())


def check(layers, way, tolerance=1e-5, **options):
    merged = MergedLinear(layers, **{'dtype': torch.float32, **options})
    assert merged.way == way
    for rows in (torch.randn(5, WIDTH), torch.randn(1, WIDTH)):
        rows = rows.to(next(layers[0].parameters()).dtype)
        expected = torch.cat([layer(rows) for layer in layers], dim=-1)
        torch.testing.assert_close(merged(rows), expected, rtol=tolerance, atol=tolerance)
        residual = torch.randn_like(expected)
        torch.testing.assert_close(merged(rows, residual), expected + residual, rtol=tolerance,
                                   atol=tolerance)
    return merged


@pytest.mark.parametrize('parts', [slice(3), slice(1), slice(1, 2), slice(2, 3)])
def test_the_same_numbers_as_the_layers(layers, parts):
    packed = check(list(layers)[parts], 'copies')
    assert (packed.product is not None) == (parts.start is None)
    check(list(layers.double())[parts], 'copies', 1e-13, dtype=torch.float64)


@pytest.mark.parametrize('parts', [slice(3), slice(2, 3)])
def test_views(layers, parts, as_on_a_gpu):
    check(list(layers)[parts], 'views')


def test_weights_that_are_views_stay_parameters_of_their_layers(layers, as_on_a_gpu, tmp_path):
    before = {name: value.clone() for name, value in layers.state_dict().items()}
    parameters = list(layers.parameters())
    merged = MergedLinear(list(layers), torch.float32)
    assert all(a is b for a, b in zip(parameters, layers.parameters(), strict=True))
    assert all(value.equal(before[name]) for name, value in layers.state_dict().items())
    storages = {layer.weight.untyped_storage().data_ptr() for layer in layers}
    assert storages == {merged.weight.untyped_storage().data_ptr()}  # no memory of its own
    again = MergedLinear(list(layers), torch.float32)
    assert again.weight.data_ptr() == merged.weight.data_ptr()
    save_file(layers.state_dict(), tmp_path / 'weights.safetensors')
    assert all(value.equal(before[name]) for name, value in
               load_file(tmp_path / 'weights.safetensors').items())
    with torch.enable_grad():  # an optimizer and a checkpoint change them in place
        optimizer = torch.optim.AdamW(layers.parameters(), lr=0.1)
        sum(layer(torch.randn(3, WIDTH)).square().sum() for layer in layers).backward()
        optimizer.step()
    check(list(layers), 'views')
    assert merged.weight.t()[:1024].equal(layers[0].weight)
    layers.load_state_dict(before)
    assert merged.weight.t()[1088:].equal(layers[2].weight)
    layers.double()
    check(list(layers), 'views', 1e-13, dtype=torch.float64)


@pytest.mark.parametrize('options', [dict(), dict(use_rslora=True, lora_alpha=3)])
def test_adapters(layers, options, monkeypatch):
    adapted = adapt(layers, **options)
    merged = check(adapted, 'copies')
    assert merged.down is None  # added to the weights
    monkeypatch.setattr(merged_linear, '_choose_way', lambda *_: 'views')
    merged = check(adapted, 'views')
    assert merged.down.shape == (WIDTH, 6)
    for layer in adapted[:2]:
        layer.enable_adapters(False)
    assert check(adapted, 'views').down is None


@pytest.mark.parametrize('options', [dict(use_dora=True), dict(lora_bias=True)])
def test_other_adapters_are_called(layers, options):
    check(adapt(layers, **options), 'calls')


def test_other_layers_are_called(layers):
    class Quantized(nn.Linear):
        pass

    check([Quantized(WIDTH, 3)], 'calls')
    calls = []
    layers[1].register_forward_hook(lambda *_: calls.append(1))
    check(list(layers), 'calls')
    assert len(calls) == 6
    check(list(layers.bfloat16()), 'calls', 1e-2, dtype=torch.bfloat16)  # not copied on a CPU


def test_under_autocast_as_autocast_does(layers):
    adapted, rows = adapt(layers), torch.randn(5, WIDTH)
    with torch.autocast('cpu', torch.bfloat16):
        merged = MergedLinear(adapted, torch.bfloat16)
        expected = torch.cat([layer(rows) for layer in adapted], dim=-1)
        plain = MergedLinear(adapted[2:], torch.bfloat16)
        exact = adapted[2](rows)
        called = MergedLinear([nn.Sequential(adapted[2])], torch.bfloat16)
    assert merged.way == 'copies' and merged.down.shape == (WIDTH, 6)
    torch.testing.assert_close(merged(rows), expected, rtol=0.02, atol=0.02)
    assert plain(rows).equal(exact) and plain(rows).dtype == torch.bfloat16
    assert called.way == 'calls' and called(rows).equal(exact)


def test_adapters_added_to_16_bit_weights_lose_more_than_products_of_their_own(layers):
    """Why adapters are only added in float32: the update of a weight is smaller than the distance
    of its neighbors in bfloat16."""
    adapted = adapt(layers)
    for layer in adapted[:2]:
        layer.lora_B['default'].weight.mul_(0.01)
    rows, exact = torch.randn(64, WIDTH), MergedLinear(adapted[:2], torch.float32)
    base = torch.cat([layer.base_layer(rows) for layer in adapted[:2]], dim=-1)
    effect = exact(rows) - base
    part = merged_linear._Part.of(adapted[0])
    rounded = (part.with_adapters().bfloat16().float()
               - part.weight.bfloat16().float()) @ rows.t()
    lost = (rounded.t() - effect[:, :1024]).norm() / effect[:, :1024].norm()
    down, up = merged_linear._joined_adapters([part], part.weight.bfloat16())
    kept = (torch.mm(torch.mm(rows.bfloat16(), down), up).float() - effect[:, :1024]).norm()
    assert lost > 10 * kept / effect[:, :1024].norm()
