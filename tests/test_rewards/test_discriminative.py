# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import math

import pytest
import torch
from torch import tensor

from mmdpad.rewards.discriminative import DISCRIMINATIVE_FORMS, discriminative_reward

ROI = tensor([[0.30, 0.20], [0.25, -0.10]])
IMAGE = tensor([[0.20, 0.30], [0.25, -0.50]])
FORMS = (*DISCRIMINATIVE_FORMS, 'binary+margin')


@pytest.mark.parametrize('form, expected', [
    ('binary', [[1, 0], [0, 1]]),  # a tie is no discrimination
    ('margin', [[0.1, 0], [0, 0.4]]),
    ('binary+margin', [[1.1, 0], [0, 1.4]]),
    (dict(binary=2, margin=0.5), [[2.05, 0], [0, 2.2]]),
    ('2*binary + 0.5 * margin', [[2.05, 0], [0, 2.2]]),
    (dict(margin=5.0, roi=1.0, binary=0), [[0.8, 0.2], [0.25, 2]]),
    ('product', [[0.3 * 0.1, 0], [0, 0]]),  # a negative S1 counts as 0
    ('softmax', [[math.e / (math.e + 1), 1 / (math.e + 1)], [0.5, 1 / (1 + math.exp(-4))]]),
    ('roi', [[0.3, 0.2], [0.25, 0]]),
    ('sigmoid', [[1 / (1 + math.exp(-10)), 1 / (1 + math.exp(10))], [0.5, 1]]),
])
def test_hand_computed_values(form, expected):
    reward = discriminative_reward(ROI, IMAGE, form)
    torch.testing.assert_close(reward, tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize('temperature', [0.02, 0.1, 1.0])
def test_softmax_and_sigmoid_are_one_function(temperature):
    grid = torch.linspace(-1, 1, 41, dtype=torch.float64)
    roi, image = torch.meshgrid(grid, grid, indexing='ij')
    softmax = discriminative_reward(roi, image, 'softmax', temperature=temperature)
    sigmoid = discriminative_reward(roi, image, 'sigmoid', alpha=1 / temperature)
    torch.testing.assert_close(softmax, sigmoid, rtol=1e-12, atol=0)
    by_hand = torch.stack([roi, image]).div(temperature).softmax(dim=0)[0]
    torch.testing.assert_close(sigmoid, by_hand, rtol=1e-12, atol=1e-15)


def test_a_single_form_and_a_sum_are_what_their_parts_are_to_the_bit():
    roi, image = torch.rand(2, 16, 8, generator=torch.Generator().manual_seed(0))
    binary, margin = (discriminative_reward(roi, image, form) for form in ('binary', 'margin'))
    assert torch.equal(margin, (roi - image).clamp(min=0))
    for form in ('binary+margin', 'margin+binary', dict(binary=1, margin=1)):
        assert torch.equal(discriminative_reward(roi, image, form), binary + margin)


@pytest.mark.parametrize('form, message', [
    ('binary+margn', "as in 'binary.5.margin', .*dict.binary=1, margin=5.*'binary.margn'"),
    ('margin+margin', 'different ones'), ('x*margin', "got 'x.margin'"), ('-margin', 'one of'),
    ('0*binary', 'not all 0'), ('', "one of .* got ''"), ({}, 'one of .* got {}'),
    (dict(margn=1), "got {'margn': 1}"), (7, 'one of .* got 7'),
    (dict(binary=-1, margin=2), 'weights, none negative and not all 0, but got .*-1'),
    (dict(binary=0), 'not all 0'), (dict(margin=math.inf), 'finite weights'),
    (dict(margin=math.nan), 'finite weights'), (dict(margin='5'), "finite weights.*'5'")])
def test_a_wrong_sum_is_named(form, message):
    with pytest.raises(ValueError, match='`form` should .*' + message):
        discriminative_reward(ROI, IMAGE, form)


def test_softmax_and_sigmoid_read_their_own_parameter():
    roi, image = ROI[:1, :1], IMAGE[:1, :1]
    softmax = discriminative_reward(roi, image, 'softmax', temperature=0.05, alpha=3)
    sigmoid = discriminative_reward(roi, image, 'sigmoid', temperature=0.05, alpha=3)
    assert softmax.item() == pytest.approx(1 / (1 + math.exp(-2)), rel=1e-5)
    assert sigmoid.item() == pytest.approx(1 / (1 + math.exp(-0.3)), rel=1e-5)


@pytest.mark.parametrize('form', FORMS)
def test_nothing_earns_nothing(form):
    """No caption (NaN), NaN or infinite similarity: the lowest value, whatever the other says."""
    roi = tensor([[math.nan, math.nan, 0.9, math.inf, 0.9]])
    image = tensor([[math.nan, 0.1, math.nan, 0.1, -math.inf]])
    reward = discriminative_reward(roi, image, form)
    assert reward.tolist() == [[0, 0, 0, 0, 0]]


@pytest.mark.parametrize('form', FORMS)
def test_no_valid_caption_scores_below_a_missing_one(form):
    grid = torch.linspace(-1, 1, 21)
    roi, image = torch.meshgrid(grid, grid, indexing='ij')
    reward = discriminative_reward(roi, image, form)
    assert reward.isfinite().all() and reward.min() >= 0 and reward.max() <= 3
    assert (reward.diff(dim=0) >= -1e-6).all(), 'should not fall as S1 rises'


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="'binary', 'margin'.*but got 'cubic'"):
        discriminative_reward(ROI, IMAGE, 'cubic')
    with pytest.raises(ValueError, match=r'same shape, but got \(2, 2\) and \(1, 2\)'):
        discriminative_reward(ROI, IMAGE[:1])
    with pytest.raises(ValueError, match='positive, but got 0'):
        discriminative_reward(ROI, IMAGE, 'softmax', temperature=0)
