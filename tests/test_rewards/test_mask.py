# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest

from mmdpad.rewards.mask import tiered


@pytest.mark.parametrize('iou, expected', [(0., 0.), (.5, 0.), (.6, 1 / 3), (.95, 1.), (1., 1.)])
def test_tiers_by_hand(iou, expected):
    assert tiered(iou, (.5, .7, .9)) == pytest.approx(expected)


def test_without_tiers_it_is_the_iou():
    assert tiered(.37, None) == .37 and tiered(.37, ()) == .37
