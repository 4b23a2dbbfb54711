# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Optimizer steps whose gradients are not finite are not taken."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from mmengine.dist import all_reduce
from torch.distributed.tensor import DTensor

from mmdpad.structures import RolloutBatch


class StepRefused(Exception):
    """The gradients of a step are not finite; weights and optimizer are as they were."""


def refuse_non_finite(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """For ``optimizer.register_step_pre_hook``: lets no NaN or infinity into the weights and the
    optimizer's state, which would never leave them. Gradients whose norm overflows count, too.

    Raises:
        StepRefused: On every process, if it is so on any.
    """
    gradients = [parameter.grad for group in optimizer.param_groups
                 for parameter in group['params'] if parameter.grad is not None]
    gradients = [gradient.to_local() if isinstance(gradient, DTensor) else gradient
                 for gradient in gradients]
    refused = torch.nn.utils.get_total_norm(gradients).isfinite().logical_not().float()
    all_reduce(refused, 'max')
    if refused:
        raise StepRefused


def save_rollout(rollout: RolloutBatch, path: str) -> None:
    """Writes what is plain in a rollout, to be read by ``torch.load(path, weights_only=True)``:
    tensors, texts and, as ``samples``, what is known of each prompt's sample."""
    content = {item.name: getattr(rollout, item.name) for item in fields(rollout)
               if item.name not in ('data_samples', 'parsed', 'prompts', 'loss_scale')}
    content['samples'] = [{name: value for name, value in sample.metainfo.items()
                           if isinstance(value, (str, int, float, tuple))}
                          for sample in rollout.data_samples]
    torch.save(content, path)
