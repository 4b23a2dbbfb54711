# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Retries a batch in smaller parts when the device runs out of memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from mmengine.logging import print_log

Result = TypeVar('Result')


def retry_on_oom(compute: Callable[[slice], Result], size: int, what: str,
                 most: int | None = None) -> list[Result]:
    """Run ``compute`` on a batch in parts, and split a part in half whenever it runs out of memory.

    Args:
        compute: Maps a part of the batch to a result that does not depend on the other parts.
        size: Number of items in the batch.
        what: Name of the model that computes, for messages.
        most: Maximum number of items in a part; None for all.

    Returns:
        The results of the parts, in order.

    Raises:
        torch.OutOfMemoryError: A single item ran out of memory; the message names the model.
    """
    results: list[Result] = []
    most = most or max(size, 1)
    waiting = [slice(start, min(start + most, size)) for start in range(0, max(size, 1), most)]
    waiting.reverse()
    while waiting:
        part = waiting.pop()
        number = part.stop - part.start
        try:
            results.append(compute(part))
        except torch.OutOfMemoryError as error:
            if number <= 1:
                raise torch.OutOfMemoryError(
                    f'{what} ran out of memory with a single item. Free some: choose a smaller '
                    f'model or lower precision for it, or fewer responses or tokens of the policy '
                    f'at a time (`model.train_cfg.group_size`, '
                    f'`train_cfg.tokens_per_micro_batch`). '
                    f'{error}') from error
            print_log(f'{what} ran out of memory with {number} items at once; retrying with half '
                      f'as many', logger='current', level=logging.WARNING)
            middle = part.start + number // 2
            waiting += [slice(middle, part.stop), slice(part.start, middle)]
    return results
