# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import json
import math
from pathlib import Path

import pytest
import torch

from mmdpad.rl import policy_loss
from mmdpad.structures import LossScale

GOLDEN = Path(__file__).parents[1] / 'data' / 'golden' / 'grpo.jsonl'


@pytest.mark.parametrize('aggregation', ['token_mean', 'seq_mean_token_mean'])
@pytest.mark.parametrize('line', GOLDEN.read_text().splitlines())
def test_golden(line, aggregation):
    case = json.loads(line)
    logp, old, ref = (torch.tensor(case[k]) for k in ('logp', 'old_logp', 'ref_logp'))
    expected = case['expected']
    mask = torch.arange(logp.shape[1]) < torch.tensor(case['lengths'])[:, None]
    loss, scalars = policy_loss(
        logp, old, torch.tensor(expected['advantage']), mask, ref_logp=ref,
        clip_ratio=case['clip_ratio'], kl_coef=case['kl_coef'], aggregation=aggregation)
    close = dict(rel=1e-5, abs=1e-6)
    assert loss.item() == pytest.approx(expected[aggregation]['loss'], **close)
    for name in ('clip_frac', 'approx_kl'):
        assert scalars[name].item() == pytest.approx(expected[name], **close)
    for name in expected[aggregation].keys() & scalars.keys():
        assert scalars[name].item() == pytest.approx(expected[aggregation][name], **close)


def test_by_hand():
    # ratios 2 and 0.5, clip 0.2: A = 1 gives -min(2, 1.2) and -min(0.5, 0.8)
    logp = torch.tensor([[math.log(2.), math.log(.5)]], requires_grad=True)
    loss, scalars = policy_loss(logp, torch.zeros(1, 2), torch.ones(1), torch.ones(1, 2),
                                entropy=torch.full((1, 2), 3.), entropy_coef=0.1)
    assert loss.item() == pytest.approx(-(1.2 + 0.5) / 2 - 0.3)
    assert scalars['clip_frac'] == 0.5
    assert scalars['approx_kl'].item() == pytest.approx(0.0, abs=1e-7)
    loss.backward()
    # The clipped token has no gradient; the other has -A * ratio / 2.
    torch.testing.assert_close(logp.grad, torch.tensor([[0., -.25]]))


@pytest.mark.parametrize('switches', [
    {}, dict(kl_estimator='k1'), dict(kl_estimator='k2'), dict(surrogate='cispo'),
    dict(ratio_level='sequence'), dict(kl_estimator='k3_unbiased'),
    dict(off_policy_mask_threshold=0.)])
def test_padding_may_hold_anything(switches):
    bad = torch.tensor([[-1., float('nan')], [-2., float('-inf')]], requires_grad=True)
    mask = torch.tensor([[True, False], [True, False]])
    loss, _ = policy_loss(bad, bad.detach(), torch.ones(2), mask, ref_logp=bad.detach(),
                          kl_coef=0.1, **switches)
    loss.backward()
    assert loss.isfinite() and bad.grad.isfinite().all()


def test_a_coefficient_without_its_tensor_and_unequal_shapes_are_errors():
    x, mask = torch.zeros(2, 3), torch.ones(2, 3)
    with pytest.raises(ValueError, match='ref_logp'):
        policy_loss(x, x, torch.ones(2), mask, kl_coef=0.1)
    with pytest.raises(ValueError, match='entropy'):
        policy_loss(x, x, torch.ones(2), mask, entropy_coef=0.1)
    with pytest.raises(ValueError, match='the same shape'):
        policy_loss(x, x[:, :2], torch.ones(2), mask)


def gradient(ratios, advantage, **switches):
    """Loss, gradient in logp and clip_frac of one sequence with the given ratios."""
    logp = torch.tensor([ratios], dtype=torch.float64).log().requires_grad_()
    loss, scalars = policy_loss(logp, torch.zeros_like(logp), torch.tensor([advantage]),
                                torch.ones(1, len(ratios)), **switches)
    loss.backward()
    return loss.item(), logp.grad[0].tolist(), scalars['clip_frac'].item()


def test_asymmetric_clipping_by_hand():
    # 1.25 is beyond 1 + 0.2 but not beyond 1 + 0.28: the token keeps its gradient
    assert gradient([1.25], 1.)[1] == [0.]
    loss, grad, clipped = gradient([1.25], 1., clip_ratio_high=0.28)
    assert (loss, grad, clipped) == (pytest.approx(-1.25), pytest.approx([-1.25]), 0.)
    # The lower bound stays: A = -1 and 0.5 gives max(0.5, 0.8)
    assert gradient([.5], -1., clip_ratio_high=0.28)[0] == pytest.approx(0.8)


def test_sequence_level_ratio_by_hand():
    # sqrt(2 * 0.5) = 1: no token is clipped, and each gets A * w / T
    loss, grad, clipped = gradient([2., .5], 1., ratio_level='sequence')
    assert loss == pytest.approx(-1.) and clipped == 0.
    assert grad == pytest.approx([-.5, -.5])
    # sqrt(2 * 2) = 2: the whole sequence is clipped
    assert gradient([2., 2.], 1., ratio_level='sequence')[1:] == ([0., 0.], 1.)


def test_the_sequence_ratio_is_a_mean_over_tokens_that_count():
    logp = torch.tensor([[math.log(1.1), 5.]])
    _, scalars = policy_loss(logp, torch.zeros(1, 2), torch.ones(1), torch.tensor([[1, 0]]),
                             ratio_level='sequence')
    assert scalars['pg_loss'].item() == pytest.approx(-1.1)


def test_cispo_by_hand():
    # The weight is bounded, the gradient is not cut: -A * min(w, 1.2) / T
    loss, grad, clipped = gradient([2., .5], 1., surrogate='cispo')
    assert grad == pytest.approx([-.6, -.25]) and clipped == .5
    assert loss == pytest.approx(-(1.2 * math.log(2.) + .5 * math.log(.5)) / 2)


@pytest.mark.parametrize('aggregation', ['token_mean', 'seq_mean_token_mean',
                                         'seq_mean_token_sum_norm'])
def test_parts_of_a_batch_add_up_to_its_loss_and_scalars(aggregation):
    torch.manual_seed(0)
    logp, old, ref, entropy = torch.randn(4, 6, 5, dtype=torch.float64) / 3
    advantages = torch.randn(6, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([[5], [1], [3], [2], [0], [4]])
    switches = dict(kl_coef=.1, entropy_coef=.2, aggregation=aggregation, max_tokens=7)

    def run(rows, scale):
        return policy_loss(logp[rows], old[rows], advantages[rows], mask[rows],
                           ref_logp=ref[rows], entropy=entropy[rows], scale=scale, **switches)

    for parts in (1, 2, 3, 6):
        scale = LossScale.of(mask, parts)
        pieces = [run(slice(i, i + 6 // parts), scale) for i in range(0, 6, 6 // parts)]
        # Accumulated gradients and data-parallel processes average over parts.
        mean = sum(loss for loss, _ in pieces) / parts
        torch.testing.assert_close(mean, run(slice(None), LossScale.of(mask))[0])
        for name in pieces[0][1]:
            torch.testing.assert_close(sum(scalars[name] for _, scalars in pieces) / parts,
                                       run(slice(None), LossScale.of(mask))[1][name])


@pytest.mark.parametrize('switch, message', [
    (dict(ratio_level='word'), 'ratio_level'), (dict(surrogate='ppo'), 'surrogate'),
    (dict(kl_estimator='k4'), 'kl_estimator'), (dict(clip_ratio=2.), 'clip_ratio'),
    (dict(aggregation='seq_mean_token_sum_norm'), 'max_tokens'),
    (dict(aggregation='sum'), 'aggregation'),
    (dict(off_policy_mask_threshold=-.1), 'off_policy_mask_threshold')])
def test_unknown_switches(switch, message):
    with pytest.raises(ValueError, match=message):
        gradient([1.], 1., **switch)
