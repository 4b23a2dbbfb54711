# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest

from mmdpad.utils import spread


@pytest.mark.parametrize('count, number, places', [
    (0, 3, []), (5, 0, []), (1, 3, [0]), (5, 1, [0]), (5, 2, [0, 4]), (5, 3, [0, 2, 4]),
    (3, 8, [0, 1, 2]), (192, 4, [0, 64, 127, 191])])
def test_spread_by_hand(count, number, places):
    assert spread(range(count), number) == places
