# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Lets the reference policy follow the trained one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from mmdpad.engine.strategies import REFERENCE, shard_as
from mmdpad.engine.unwrap import unwrap
from mmdpad.models.non_finite import local_part
from mmdpad.registry import HOOKS


@HOOKS.register_module()
class SyncReferenceHook(Hook):
    """Moves the reference policy toward the trained one, so that the KL term does not hold a long
    training at its start: reference <- alpha * policy + (1 - alpha) * reference (TR-DPO, arXiv
    2404.09656; TRL's ``sync_ref_model``).

    Each checkpoint that a run can resume from also holds the reference, and grows by the size of
    the trained weights.

    Args:
        interval: Iterations between two synchronizations (TRL's ``ref_model_sync_steps``, which
            counts optimizer steps).
        mixup_alpha: The share of the trained policy, in (0, 1] (``ref_model_mixup_alpha``).

    Raises:
        ValueError: A value is out of range; or before training, there is no copy of the start
            policy (:func:`check_reference`).
    """

    priority = 'NORMAL'  # before checkpoints are written

    def __init__(self, interval: int = 512, mixup_alpha: float = 0.6) -> None:
        if interval < 1:
            raise ValueError(f'`interval` should be at least 1 (iteration), but got {interval}')
        if not 0 < mixup_alpha <= 1:
            raise ValueError(f'`mixup_alpha` should be in (0, 1], but got {mixup_alpha}')
        self.interval = interval
        self.mixup_alpha = mixup_alpha
        self._resumed: dict[str, Tensor] = {}

    def before_train(self, runner: Any) -> None:
        """Check that there is a reference, and restore that of an interrupted run."""
        model = unwrap(runner.model)
        check_reference(model.objective.needs_reference, model.policy.has_adapter)
        if not self._resumed:
            return
        own = dict(model.reference.named_parameters())
        with torch.no_grad():
            for name, value in shard_as(self._resumed, own).items():
                local_part(own[name]).copy_(local_part(value))
        self._resumed = {}

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        """Synchronize if it is time."""
        if self.every_n_train_iters(runner, self.interval):
            for _, reference, policy in _trained(unwrap(runner.model)):
                reference.lerp_(policy.to(reference), self.mixup_alpha)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Add the reference to a checkpoint to resume from."""
        if 'optimizer' in checkpoint:
            own = dict(unwrap(runner.model).reference.named_parameters())
            checkpoint[REFERENCE] = {name: own[name].detach()
                                     for name, *_ in _trained(unwrap(runner.model))}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Keep the reference until the run has built its own."""
        if getattr(runner, '_resume', False):
            self._resumed = checkpoint.pop(REFERENCE, {})


def check_reference(needs_reference: bool, has_adapter: bool) -> None:
    """Check that a training has a copy of its start policy.

    Raises:
        ValueError: The loss needs no reference, or the policy with its adapter off serves as one.
    """
    if not needs_reference:
        raise ValueError('`SyncReferenceHook` should be left out if the loss compares with no '
                         'reference, but `model.loss.kl_coef` is 0; set it, or remove the hook')
    if has_adapter:
        raise ValueError('`SyncReferenceHook` should be left out with `model.policy.lora`: the '
                         'policy with its adapter off is the reference, of which there is no copy '
                         'to synchronize; remove the hook, or train all weights')


def _trained(model: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the name of each trained weight, and what this process has of it in the reference and
    in the policy. Weights that are not trained may be shared."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # a pass without a backward one may have left it gathered
    reference = dict(model.reference.named_parameters())
    for name, value in model.policy.named_parameters():
        if value.requires_grad:
            yield name, local_part(reference[name]).detach(), local_part(value).detach()
