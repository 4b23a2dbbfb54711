# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Attention of packed rows against each response's own sequence, values and gradients."""
from functools import partial

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from mmdpad.models.heads import packed_attention
from mmdpad.models.heads.packed_attention import (
    CopiedPrompts,
    JoinedAttention,
    PackedGroup,
    Spans,
)

CPU = torch.device('cpu')
HEADS, KEY_HEADS, SIZE = 4, 2, 8
# Prompt and responses of each group.
ROWS = {
    'equal lengths': [(7, [3, 3, 3])],
    'other lengths': [(7, [3, 0, 5]), (8, [1, 2, 2]), (30, [4, 1, 3])],
    'equal groups': [(9, [2, 4]), (9, [2, 4])],
    'no responses': [(4, []), (6, [])],
    'empty responses': [(5, [0, 0])],
    'other numbers of responses': [(7, [3, 1, 4]), (6, []), (7, [3]), (7, [5, 2, 1]), (6, [])],
}


def one_by_one(groups, query, key, value):
    """Each prompt and each response with its prompt by itself, causally."""
    outputs, start = [], 0
    for prompt, responses in groups:
        first, place = list(range(start, start + prompt)), start + prompt
        sequences = [first]
        for length in responses:
            sequences.append(first + list(range(place, place + length)))
            place += length
        for number, tokens in enumerate(sequences):
            q, k, v = (x[tokens].transpose(0, 1)[None] for x in (query, key, value))
            seen = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            outputs.append(seen[0].transpose(0, 1)[prompt if number else 0:])
        start = place
    return torch.cat(outputs)


def results(attend, length, dtype=torch.float64):
    """Output and gradients for random tokens."""
    generator = torch.Generator().manual_seed(0)
    query, key, value, weight = (
        torch.randn(length, heads, SIZE, generator=generator, dtype=torch.float64).to(dtype)
        for heads in (HEADS, KEY_HEADS, KEY_HEADS, HEADS))
    inputs = [x.requires_grad_() for x in (query, key, value)]
    output = attend(*inputs)
    (output * weight).sum().backward()
    return output, *(x.grad for x in inputs)


def packed(kind, row):
    groups = [PackedGroup(*group) for group in row]
    attention = kind(groups, CPU)
    return lambda *tensors: attention(*tensors, SIZE**-0.5)


@pytest.mark.parametrize('kind', [JoinedAttention, CopiedPrompts])
@pytest.mark.parametrize('name', ROWS)
def test_as_one_by_one(name, kind, monkeypatch):
    row = ROWS[name]
    length = sum(prompt + sum(responses) for prompt, responses in row)
    expected = results(partial(one_by_one, row), length)
    for found, wanted in zip(results(packed(kind, row), length), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)
    monkeypatch.setattr(packed_attention, '_GROUPS_HEADS', False)  # an older torch
    for found, wanted in zip(results(packed(kind, row), length), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)


def test_large_scores_join_without_overflow():
    """A prompt's keys that outweigh the response's by e^200, and the other way round."""
    attention = JoinedAttention([PackedGroup(1, [1])], CPU)
    value = torch.tensor([1., 3.]).reshape(2, 1, 1)
    for keys, seen in (([200., 0.], 1.), ([0., 200.], 3.), ([-200., -200.], 2.)):
        key = torch.tensor(keys).reshape(2, 1, 1)
        assert attention(torch.ones(2, 1, 1), key, value, 1.0)[1].item() == pytest.approx(seen)


def test_autocast_computes_in_its_type():
    attend, length = packed(JoinedAttention, ROWS['other lengths']), 66
    exact = results(attend, length)
    with torch.autocast('cpu', torch.bfloat16):
        rounded = results(attend, length, torch.float32)
    assert rounded[0].dtype == torch.bfloat16 and rounded[1].dtype == torch.float32
    for found, wanted in zip(rounded, exact, strict=True):
        assert 1e-4 < (found - wanted).norm() / wanted.norm() < 1e-2


def test_groups_are_padded_where_that_adds_little():
    """Prompts of 100 and 105 tokens in one batch; one of 200 by itself; the order is the row's."""
    groups = [PackedGroup(length, [10, 10]) for length in (105, 200, 100)]
    assert packed_attention._batches(groups) == [[2, 0], [1]]
    calls = CopiedPrompts(groups, CPU).batches
    assert [prompts.shape for prompts, _, _ in calls] == [(2, 105), (1, 200)]
    assert [visible.ndim for *_, visible in calls] == [4, 2]


def test_a_grid_is_a_view_where_spans_are_adjacent_and_equal():
    row = torch.arange(7.)
    full, ragged = Spans([1, 4], [3, 3], CPU), Spans([1, 4], [3, 1], CPU)
    assert full.grid(row).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert full.grid(row).data_ptr() == row[1:].data_ptr()
    assert ragged.grid(row).tolist() == [[1, 2, 3], [4, 0, 0]]
    assert ragged.flat(ragged.grid(row)).tolist() == [1, 2, 3, 4]
