# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The reference policy, from which training started."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mmdpad.models.mapped_weights import mapped_twins


def frozen_copy(policy: Any) -> nn.Module:
    """Copy the current policy; modules that encode images are shared if they are not trained.
    Weights that are still in files (:mod:`mmdpad.models.mapped_weights`) are not copied."""
    shared: dict[int, Any] = dict(mapped_twins(policy))
    if policy.vision_is_fixed:
        shared |= {id(module): module
                   for module in policy.family.vision_modules(policy.model).values()}
    return copy.deepcopy(policy, shared).requires_grad_(False).eval()


@torch.no_grad()
def reference_log_probs(policy: Any, reference: Any, *tokens: Any) -> Tensor:
    """Compute (N, R) log-probabilities under the reference.

    Args:
        policy: The policy. If it has an adapter, it is the reference with the adapter off.
        reference: The frozen copy of a policy without an adapter.
        *tokens: Arguments of the head's ``log_probs``.

    Raises:
        RuntimeError: The policy has no adapter, and there is no copy.
    """
    if policy.has_adapter:
        with policy.adapter_off():
            return policy.log_probs(*tokens)[0]
    if reference is None:
        raise RuntimeError('`build_reference()` should be called before training with a loss that '
                           'needs the reference')
    return reference.log_probs(*tokens)[0]
