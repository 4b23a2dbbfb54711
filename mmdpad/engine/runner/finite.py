# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Skips optimizer steps whose gradients are not finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import wraps
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.optim import OptimWrapper

from mmdpad.models.non_finite import local_part
from mmdpad.structures import RolloutBatch


class StepRefused(Exception):
    """The gradients of a step are not finite; weights and optimizer are unchanged."""


@contextmanager
def refused_steps(wrapper: OptimWrapper) -> Iterator[None]:
    """Let the wrapper's ``step`` start with :func:`refuse_non_finite` within the block, before
    gradients are clipped and before a loss scaler silently skips steps on its own."""
    step = wrapper.step

    @wraps(step)  # keeps an attribute that mmengine's schedulers need
    def checked(**kwargs: Any) -> None:
        refuse_non_finite(wrapper.optimizer)
        step(**kwargs)

    wrapper.step = checked
    try:
        yield
    finally:
        wrapper.step = step


def lower_loss_scale(wrapper: OptimWrapper) -> bool:
    """Update a loss scaler after a refused step as after a step that it skips itself. The
    gradients must still be in place.

    Returns:
        Whether the scale was lowered and may have been too large. This is how a scaler searches for
        a scale for float16; bfloat16 needs none, since it has the range of float32.
    """
    scaler = getattr(wrapper, 'loss_scaler', None)
    if scaler is None or not scaler.is_enabled():
        return False
    before = scaler.get_scale()
    scaler.unscale_(wrapper.optimizer)
    scaler.update(wrapper._scale_update_param)
    return wrapper.cast_dtype is not torch.bfloat16 and 1 < before > scaler.get_scale()


def refuse_non_finite(optimizer: torch.optim.Optimizer) -> None:
    """Keep NaN and infinity out of the weights and the optimizer's state, where they would remain
    forever. Gradients whose norm overflows count, too.

    Raises:
        StepRefused: On every process, if the gradients of any are not finite.
    """
    gradients = [local_part(parameter.grad) for group in optimizer.param_groups
                 for parameter in group['params'] if parameter.grad is not None]
    refused = torch.nn.utils.get_total_norm(gradients).isfinite().logical_not().float()
    all_reduce(refused, 'max')
    if refused:
        raise StepRefused


def save_rollout(rollout: RolloutBatch, path: str) -> None:
    """Save the plain data of a rollout, for ``torch.load(path, weights_only=True)``: tensors, texts
    and, as ``samples``, the plain metainfo of each prompt's sample."""
    content = {item.name: getattr(rollout, item.name) for item in fields(rollout)
               if item.name not in ('data_samples', 'parsed', 'prompts', 'replies',
                                    'conversations', 'loss_scale')}
    content['conversations'] = rollout.conversations and [
        record.describe() for record in rollout.conversations]
    content['samples'] = [{name: value for name, value in sample.metainfo.items()
                           if isinstance(value, (str, int, float, tuple))}
                          for sample in rollout.data_samples]
    torch.save(content, path)
