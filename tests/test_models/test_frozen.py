# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import copy

import numpy as np
import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmdpad.models.frozen import FrozenModule


class Frozen(FrozenModule):

    def __init__(self, cache_size=2):
        super().__init__(cache_size)
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        self.freeze()

    def forward(self, vector):
        return self.feature_cache.lookup(
            [vector], lambda new: [self.layers(torch.from_numpy(v)) for v in new])[0]


VECTOR = np.array([1., 2.], np.float32)


def test_a_parent_in_training_leaves_it_in_evaluation():
    parent = nn.ModuleList([Frozen(), nn.Dropout()]).train()
    assert [m.training for m in parent[0].modules()] == [False] * 4
    assert parent[1].training
    assert not any(p.requires_grad for p in parent.parameters())


@pytest.mark.parametrize('change', [
    lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}),
    lambda m: load_state_dict(m, {k: v + 1 for k, v in m.state_dict().items()}),  # mmengine's
    lambda m: m.double().bfloat16().float(),
])
@pytest.mark.parametrize('as_part', [False, True])
def test_other_weights_empty_the_cache(change, as_part):
    torch.manual_seed(0)
    model = Frozen()
    before = model(VECTOR)
    assert model(VECTOR) is before
    change(nn.ModuleList([model]) if as_part else model)
    after = model(VECTOR)
    assert torch.equal(after, model.layers(torch.from_numpy(VECTOR)))
    assert not torch.equal(after, before)


def test_moved_module_has_features_where_it_is():
    model = Frozen()
    model(VECTOR)
    assert len(model.feature_cache) == 1
    assert len(model.to('meta').feature_cache) == 0


def test_each_module_has_a_cache_of_its_own():
    first = Frozen()
    second = copy.deepcopy(first)
    first(VECTOR)
    assert len(first.feature_cache) == 1 and len(second.feature_cache) == 0
    assert not any('cache' in name for name in first.state_dict())


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_are_not_finite_are_refused(value):
    frozen = Frozen()
    frozen.layers[0].bias.data[1] = value
    with pytest.raises(ValueError, match='1 are NaN or infinite, for example layers.0.bias; the'):
        frozen.freeze()
