# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
import pytest

from mmdpad.geometry.mask_iou import apply_protocol, mask_iou


def row(text):
    return np.array([[c == '1' for c in text]])


MASK, TARGET, IGNORE = row('11100100'), row('01110000'), row('00000110')


@pytest.mark.parametrize('protocol, intersection, union', [
    ('target', 3, 6),  # 1, 2 and the ignored 5 hit; 0-3, 5, 6 together
    ('exclude', 2, 4),  # 1, 2 hit; 0-3 together
])
def test_protocols_by_hand(protocol, intersection, union):
    mask, target = apply_protocol(MASK, TARGET, IGNORE, protocol)
    assert ((mask & target).sum(), (mask | target).sum()) == (intersection, union)


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"one of \('target', 'exclude'\), but got 'drop'"):
        apply_protocol(MASK, TARGET, IGNORE, 'drop')
    with pytest.raises(ValueError, match=r'the same shape, but got \(1, 7\), \(1, 8\)'):
        apply_protocol(MASK[:, 1:], TARGET, IGNORE, 'target')


def test_mask_iou():
    assert mask_iou(2, 4, 'target') == mask_iou(2, 4, 'exclude') == 0.5
    assert mask_iou(0, 0, 'exclude') == 1.0 and mask_iou(0, 0, 'target') == 0.0


