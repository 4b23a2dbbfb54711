# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch
from torch import nn

from mmdpad.models.rollouts.packed_linear import packed_linears


@pytest.fixture
def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(512, 1024), nn.Linear(1024, 512, bias=False), nn.Linear(512, 8))


@pytest.mark.parametrize('rows', [(1, ), (5, 1), (100, )])
@torch.no_grad()
def test_the_same_numbers_and_nothing_left_behind(layers, rows):
    values = torch.randn(*rows, 512)
    expected = layers(values)
    with packed_linears(layers):
        assert [('forward' in vars(layer)) for layer in layers] == [True, True, False]
        torch.testing.assert_close(layers(values), expected, rtol=1e-5, atol=1e-5)
        other = layers(values + 1)
    assert not any('forward' in vars(layer) for layer in layers)
    torch.testing.assert_close(layers(values + 1), other, rtol=1e-5, atol=1e-5)


def test_an_error_leaves_the_layers_as_they_were(layers):
    with pytest.raises(KeyError), packed_linears(layers):
        raise KeyError
    assert not any('forward' in vars(layer) for layer in layers)


def test_what_would_not_gain_is_left_alone(layers):
    with packed_linears(layers.double()):
        assert not any('forward' in vars(layer) for layer in layers)
    with torch.autocast('cpu', torch.bfloat16), packed_linears(layers.float()):
        assert not any('forward' in vars(layer) for layer in layers)
