# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What to do where a device has too little memory for a batch: take less of it at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from mmengine.logging import print_log

Result = TypeVar('Result')


def retry_on_oom(compute: Callable[[slice], Result], size: int, what: str,
             most: int | None = None) -> list[Result]:
    """``compute`` of a batch, at most so many items at once, and where that runs out of memory half
    as many, a quarter and so on.

    Args:
        compute: Maps a part of the batch to a result that does not depend on the other parts.
        size: Of the batch.
        what: Who computes, for messages.
        most: Items at once; None for all.

    Returns:
        The results of the parts, in order.

    Raises:
        torch.OutOfMemoryError: Of a single item; the message says what ran out.
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
                    f'{what} ran out of memory with a single item. Leave it more: a smaller model '
                    f'or precision for it, fewer responses or tokens of the policy at once '
                    f'(`model.train_cfg.group_size`, `train_cfg.tokens_per_micro_batch`). '
                    f'{error}') from error
            print_log(f'{what} ran out of memory with {number} at once; it goes on with half as '
                      f'many', logger='current', level=logging.WARNING)
            middle = part.start + number // 2
            waiting += [slice(middle, part.stop), slice(part.start, middle)]
    return results
