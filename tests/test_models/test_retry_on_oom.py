# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest
import torch

from mmdpad.models.retry_on_oom import retry_on_oom


class SmallDevice:
    """Runs out of memory with more than so many items."""

    def __init__(self, most):
        self.most, self.sizes = most, []

    def __call__(self, part):
        self.sizes.append(part.stop - part.start)
        if self.sizes[-1] > self.most:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return list(range(10))[part]


def test_a_batch_is_halved_until_it_fits_and_keeps_its_order():
    device = SmallDevice(3)
    assert retry_on_oom(device, 10, 'It') == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]
    assert device.sizes == [10, 5, 2, 3, 5, 2, 3]


def test_one_that_fits_is_computed_at_once():
    assert retry_on_oom(SmallDevice(10), 10, 'It') == [list(range(10))]
    assert retry_on_oom(SmallDevice(10), 0, 'It') == [[]]


def test_no_more_than_so_many_are_tried_at_once():
    device = SmallDevice(3)
    assert retry_on_oom(device, 10, 'It', 4) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert device.sizes == [4, 2, 2, 4, 2, 2, 2]
    assert retry_on_oom(SmallDevice(0), 0, 'It', 4) == [[]]


def test_a_single_item_that_does_not_fit_is_an_error_that_says_what():
    with pytest.raises(torch.OutOfMemoryError, match='It ran out of memory with a single .*`'):
        retry_on_oom(SmallDevice(0), 10, 'It')


@pytest.mark.gpu
def test_on_a_gpu_that_is_too_small():
    """10 items of 256 MB each, of which 2 GB hold 7."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(2 * 2**30 / total)
    try:
        sizes = retry_on_oom(lambda part: torch.ones(part.stop - part.start, 2**26, device='cuda')
                             .sum(dim=1).shape[0], 10, 'It')
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert sizes == [5, 5]
