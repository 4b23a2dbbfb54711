# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch

from mmdpad.rl import aggregate
from mmdpad.structures import LossScale

VALUES = torch.tensor([[1., 1., 1., 1.], [5., 0., 0., 0.]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])


@pytest.mark.parametrize('aggregation, expected', [
    ('token_mean', 9 / 5), ('seq_mean_token_mean', (1 + 5) / 2),
    ('seq_mean_token_sum_norm', (4 / 8 + 5 / 8) / 2)])
def test_by_hand(aggregation, expected):
    assert aggregate(VALUES, MASK, aggregation, max_tokens=8).item() == pytest.approx(expected)


@pytest.mark.parametrize('aggregation', ['token_mean', 'seq_mean_token_mean'])
def test_a_batch_without_tokens_is_zero(aggregation):
    nothing = torch.zeros(1, 2)
    assert aggregate(torch.full((1, 2), torch.nan), nothing, aggregation) == 0.0
    assert aggregate(torch.ones(1, 2), nothing, aggregation, scale=LossScale.of(nothing)) == 0.0


def test_scale_counts_sequences_and_tokens_of_a_part():
    mask = torch.tensor([[1, 1], [1, 0], [0, 0], [1, 1]])
    assert LossScale.of(mask) == (3.0, 5.0)
    assert LossScale.of(mask, parts=2) == (1.5, 2.5)
