# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from mmdpad.structures import fill


def test_ranges_by_hand():
    assert list(fill([3, 4, 5, 1], 7)) == [range(0, 2), range(2, 4)]
    assert list(fill([3, 9, 1], 7)) == [range(0, 1), range(1, 2), range(2, 3)]
    assert list(fill([0, 0, 2], 2)) == [range(0, 3)] and list(fill([], 5)) == []
