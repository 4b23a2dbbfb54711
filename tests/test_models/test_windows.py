# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import torch

from mmdpad.models.windows import Windows

CPU = torch.device('cpu')


def test_windows_by_hand():
    """Keys of 0: every value of a window weighs the same."""
    windows = Windows([2, 1, 2, 3], CPU)
    assert dict(windows.groups) == {1: 1, 2: 2, 3: 1}
    assert windows.order.tolist() == [2, 0, 1, 3, 4, 5, 6, 7]
    value = torch.tensor([1., 3., 7., 2., 6., 1., 1., 4.]).reshape(-1, 1, 1)
    found = windows.attend(torch.ones_like(value), torch.zeros_like(value), value, 1.0)
    torch.testing.assert_close(found.flatten(), torch.tensor([2., 2., 7., 4., 4., 2., 2., 2.]))


def test_sorted_windows_need_no_order():
    assert Windows([1, 2, 2, 5], CPU).order is None


def test_causal_windows_by_hand():
    value = torch.tensor([1., 3., 8., 5., 7.]).reshape(-1, 1, 1)
    found = Windows([3, 2], CPU).attend(torch.ones_like(value), torch.zeros_like(value), value,
                                        causal=True)
    torch.testing.assert_close(found.flatten(), torch.tensor([1., 2., 4., 5., 6.]))
