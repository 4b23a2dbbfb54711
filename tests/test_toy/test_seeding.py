# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import torch

from mmdpad.toy.seeding import seeded


def test_the_same_draws_each_time_and_nobody_elses_change():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    drawn = []
    for seed in (1, 1, 2):
        with seeded(seed):
            drawn.append(torch.rand(3))
    assert drawn[0].equal(drawn[1]) and not drawn[0].equal(drawn[2])
    assert torch.rand(2).equal(expected)
