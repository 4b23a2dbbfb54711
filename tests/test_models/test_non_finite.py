# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Outputs that are NaN or infinite are an error that says where they begin."""
import copy

import pytest
import torch
from torch import nn

from mmdpad.models.non_finite import NonFiniteError, diagnose, naming_samples, non_finite_weights


class Steps(nn.Module):
    """A layer, something between, and a layer."""

    def __init__(self, between=lambda x: x):
        super().__init__()
        self.first, self.last, self.between = nn.Linear(2, 2), nn.Linear(2, 2), between

    def forward(self, inputs):
        return dict(states=[self.last(self.between(self.first(inputs)))])


def explain(model, dtype=torch.float32):
    model = model.to(dtype)
    return diagnose(model, lambda: model(torch.ones(1, 2, dtype=dtype)), '`dtype`')


def test_a_weight_that_is_not_finite_is_named():
    model = Steps()
    model.last.weight.data[1, 0] = torch.nan
    model.first.bias.data[0] = torch.inf
    assert non_finite_weights(model) == ['first.bias', 'last.weight']
    text = explain(model)
    assert 'comes from `first` (Linear, float32), although its input is finite (up to 1).' in text
    assert 'Some weights are not finite: first.bias, last.weight. Their file is' in text


def test_float16_that_overflows_is_told_from_damaged_weights():
    model = Steps()
    model.first.weight.data.fill_(1.0)
    model.last.weight.data.fill_(6e4)
    text = explain(model, torch.float16)
    assert '`last` (Linear, float16), although its input is finite' in text
    assert "float16 overflows at 65504: set `dtype` to 'float32' or 'bfloat16'" in text
    big = Steps()
    big.last.weight.data.fill_(3e38)
    big.first.weight.data.fill_(10.0)
    for dtype in (torch.float32, torch.bfloat16):
        text = explain(copy.deepcopy(big), dtype)
        assert 'All weights are finite (the largest is 3e+38): if they were trained' in text


def test_what_arises_between_modules_is_found_at_the_next_one():
    text = explain(Steps(between=lambda x: x / 0 * 0))
    assert '`last` (Linear, float32); its input, which no other module computed, is not' in text


def test_a_pass_that_is_finite_when_it_is_repeated():
    model = Steps()
    assert 'All outputs are finite when the pass is repeated' in explain(model)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_prompt_is_named():
    samples = [dict(question='one'), dict(question='two', img_path='b.jpg', sample_idx=7)]
    with pytest.raises(NonFiniteError, match=r"no\. The prompt: question 'two', img_path 'b.jpg', "
                                             'sample_idx 7'), naming_samples(samples):
        raise NonFiniteError('no', 1)
    with pytest.raises(NonFiniteError, match='^no$'), naming_samples(samples):
        raise NonFiniteError('no')
