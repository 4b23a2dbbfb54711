# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What to do where a device has too little memory for a batch: take less of it at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from mmengine.logging import print_log

Result = TypeVar('Result')


def in_parts(compute: Callable[[slice], Result], size: int, what: str) -> list[Result]:
    """``compute`` of a whole batch or, where that runs out of memory, of halves, quarters and so
    on, one after the other.

    Args:
        compute: Maps a part of the batch to a result that does not depend on the other parts.
        size: Of the batch.
        what: Who computes, for messages.

    Returns:
        The results of the parts, in order; one, as a rule.

    Raises:
        torch.OutOfMemoryError: Of a single item; the message says what ran out.
    """
    results: list[Result] = []
    waiting = [slice(0, size)]
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
