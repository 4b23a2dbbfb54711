# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch
from torch import nn

from mmdpad.models.heads.token_log_probs import token_log_probs


@pytest.fixture
def output_head():
    layer = nn.Linear(2, 3, bias=False)
    layer.weight.data = torch.tensor([[1., 0.], [0., 1.], [1., 1.]])
    return layer


def test_by_hand(output_head):
    """Logits (0, log 2, log 2), of which the last is forbidden: p = 1/3, 2/3."""
    hidden = torch.tensor([[0., 2.]]) * torch.log(torch.tensor(2.))
    logp, entropy = token_log_probs(hidden, output_head, torch.tensor([1]), temperature=2.0,
                                    forbidden=[2], entropy='grad')
    third = torch.tensor(3.).log()
    torch.testing.assert_close(logp.exp(), torch.tensor([2 / 3]))
    torch.testing.assert_close(entropy, third[None] - 2 / 3 * torch.tensor(2.).log())


@pytest.mark.parametrize('entropy', [None, 'grad', 'no_grad'])
def test_parts_change_nothing(output_head, entropy):
    """5 tokens, in parts of at most 2: equal values and gradients."""
    generator = torch.Generator().manual_seed(0)
    hidden, ids = torch.randn(5, 2, generator=generator), torch.tensor([0, 1, 2, 1, 0])
    results = []
    for limit in (100, 6):
        states = hidden.clone().requires_grad_()
        output_head.zero_grad()
        logp, entropies = token_log_probs(states, output_head, ids, 0.7, entropy=entropy,
                                          max_logits=limit)
        total = (logp * torch.arange(5)).sum()
        if entropies is not None:
            assert entropies.requires_grad == (entropy == 'grad')
            total = total + entropies.square().sum()
        total.backward()
        results.append((logp, states.grad, output_head.weight.grad.clone()))
    for part, whole in zip(*results, strict=True):
        torch.testing.assert_close(part, whole)


def test_the_full_logits_are_never_in_memory():
    """The widest tensor that the output head makes is the limit's, also in the backward pass."""
    sizes = []
    layer = nn.Linear(4, 50)
    layer.register_forward_hook(lambda module, inputs, output: sizes.append(output.numel()))
    hidden = torch.randn(30, 4, requires_grad=True)
    logp, _ = token_log_probs(hidden, layer, torch.zeros(30, dtype=torch.long), max_logits=500)
    logp.sum().backward()
    assert max(sizes) == 500 and sum(sizes) == 2 * 30 * 50


def test_no_tokens(output_head):
    logp, entropy = token_log_probs(torch.zeros(0, 2), output_head, torch.zeros(0).long(),
                                    entropy='grad')
    assert logp.shape == entropy.shape == (0, )
