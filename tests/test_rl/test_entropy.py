# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import math

import pytest
import torch

from mmdpad.rl import AdaptiveEntropy, entropy_threshold


def test_the_threshold_by_hand():
    entropies = torch.tensor([3., 0., 1., 2., 4.])
    assert entropy_threshold(entropies, 0.25) == 3.0
    assert entropy_threshold(entropies, 0.2) == pytest.approx(3.2)  # position 0.8 * 4 = 3.2
    assert entropy_threshold(torch.tensor([]), 0.2) == math.inf


def test_the_threshold_is_trls():
    """`get_high_entropy_mask` of trl/trainer/grpo_trainer.py, commit f2cd577, takes torch's
    quantile of the tokens that count."""
    entropies = torch.rand(1001, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for top in (0.2, 0.37, 0.999):
        assert entropy_threshold(entropies, top) == pytest.approx(
            torch.quantile(entropies, 1 - top).item(), abs=1e-12)


def test_the_coefficient_follows_the_entropy():
    """`EntController` of Skywork-OR1's verl/trainer/ppo/core_algos.py, commit 64e96af: a step up
    below the target, else a step down, within bounds; the bonus only below the target."""
    control = AdaptiveEntropy(coef=0.1, target=0.5, delta=0.3, low=0.05, high=0.6)
    assert control.applied == 0.1
    seen = []
    for entropy in (0.4, 0.4, 0.5, 0.6, 0.3):
        control.update(entropy)
        seen.append((round(control.coef, 9), control.applied != 0))
    assert seen == [(0.4, True), (0.6, True), (0.3, False), (0.05, False), (0.35, True)]


def test_the_state_is_restored_within_the_own_bounds():
    control = AdaptiveEntropy(coef=5e-3)
    control.update(1.0)
    other = AdaptiveEntropy(high=2e-3)
    other.load_state_dict(control.state_dict())
    assert (other.coef, other.applied) == (2e-3, 0.0)


@pytest.mark.parametrize('config, told', [
    (dict(target=0.0), '`adaptive_entropy.target` should be positive'),
    (dict(delta=math.inf), '`adaptive_entropy.delta` should be positive and finite'),
    (dict(high=1e-4), '`entropy_coef` should be in .* but got 0.001 and'),
    (dict(low=-1.0), 'should be at least 0'),
    (dict(maximum=1.0), 'should have keys among')])
def test_wrong_settings(config, told):
    with pytest.raises(ValueError, match=told):
        AdaptiveEntropy.of(1e-3, config)
