# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np
import pytest
import torch

from mmdpad.models.decoders.packed_masks import PackedMasks

MASKS = torch.zeros(5, 13, 21, dtype=torch.bool)
MASKS[0] = torch.rand(13, 21, generator=torch.Generator().manual_seed(0)) > 0.7
MASKS[1, 3:9, 4:15:2] = MASKS[2, 12, 20] = MASKS[4] = True  # the fourth is empty


@pytest.mark.parametrize('index', [
    slice(None), slice(1, 3), slice(0, 0), [4, 0], torch.tensor([2]), torch.tensor([3, 3, 1]), 2,
    np.int64(4), np.arange(5) > 2])
def test_masks_come_back_bit_for_bit(index):
    got = PackedMasks.of(MASKS)[index]
    assert got.dtype == torch.bool and torch.equal(got, MASKS[index])


def test_every_pixel_is_read_without_unpacking():
    rows, columns = np.indices((13, 21))
    assert np.array_equal(PackedMasks.of(MASKS).at(rows, columns), MASKS.numpy())


def test_only_the_bits_within_the_boxes_are_kept():
    packed = PackedMasks.of(MASKS)
    assert packed.boxes[1:].tolist() == [[4, 3, 15, 9], [20, 12, 21, 13], [0] * 4, [0, 0, 21, 13]]
    assert [len(bits) for bits in packed.bits[1:]] == [9, 1, 0, 35]  # 11 * 6 bits are 9 bytes


def test_parts_and_choices_stay_packed():
    whole = PackedMasks.concatenate([PackedMasks.of(MASKS[:2]), PackedMasks.of(MASKS[2:])])
    chosen = whole.select(torch.tensor([4, 1]))
    assert len(whole) == 5 and len(chosen) == 2
    assert torch.equal(whole[:], MASKS) and torch.equal(chosen[:], MASKS[[4, 1]])
    assert torch.equal(chosen.boxes, whole.boxes[[4, 1]])
    assert PackedMasks.of(MASKS[:0])[:].shape == (0, 13, 21)
