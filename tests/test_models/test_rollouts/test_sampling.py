# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch
from torch import nn

from mmdpad.models.rollouts.sampling import (
    cut_responses,
    draw_tokens,
    evaluating,
    uniform_draws,
    warpers,
)


def test_uniform_draws_by_row():
    draws = uniform_draws(5, [3, 0], 2, 4)
    assert draws.shape == (4, 4) and draws.dtype == torch.float64
    assert (draws >= 0).all() and (draws < 1).all()
    assert len(set(draws[:, 0].tolist())) == 4
    assert draws[2:].equal(uniform_draws([5], [0], 2, 4))
    assert not draws.equal(uniform_draws(6, [3, 0], 2, 4))


def test_draw_tokens_by_hand():
    # Cumulative .25, .25, .75, 1: a token of probability 0 is never drawn, at no edge
    scores = torch.tensor([.25, 0., .5, .25]).log().expand(6, 4)
    draws = torch.tensor([0., .2499, .2501, .7499, .7501, 1.], dtype=torch.float64)
    assert draw_tokens(scores, draws, scores.amax(dim=-1)).tolist() == [0, 0, 2, 2, 3, 3]
    last = torch.tensor([[.5, .5, 0.]]).log()
    assert draw_tokens(last, torch.ones(1).double(), last.amax(dim=-1)).tolist() == [1]


def test_draw_tokens_of_a_large_vocabulary_keeps_small_probabilities_apart():
    """200,000 equal tokens: the cumulative sum is exact enough for each to have its own draws."""
    size = 200_000
    numbers = torch.tensor([0, 1, 77_777, size - 1])
    drawn = draw_tokens(torch.zeros(4, size), (numbers.double() + 0.5) / size, torch.zeros(4))
    assert drawn.equal(numbers)


def test_responses_end_with_their_first_end_token():
    ids = torch.tensor([[3, 9, 4, 9], [1, 2, 3, 4], [8, 5, 5, 5]])
    responses = cut_responses(ids, [8, 9], pad_token=0)
    assert responses.ids.tolist() == [[3, 9, 0, 0], [1, 2, 3, 4], [8, 0, 0, 0]]
    assert responses.mask.sum(dim=1).tolist() == [2, 4, 1]
    assert responses.truncated.tolist() == [False, True, False]


@pytest.mark.parametrize('options, names', [
    ((1.0, 0, 1.0), []), ((0.5, 0, 1.0), ['Temperature']),
    ((2.0, 3, 0.9), ['Temperature', 'TopK', 'TopP'])])
def test_only_what_is_asked_for_is_applied(options, names):
    assert [type(warper).__name__ for warper in warpers(*options)] == [
        f'{name}LogitsWarper' for name in names]


def test_each_module_gets_its_mode_back():
    model = nn.Sequential(nn.Dropout(), nn.Dropout()).train()
    model[1].eval()
    with pytest.raises(KeyError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == [True, True, False]
