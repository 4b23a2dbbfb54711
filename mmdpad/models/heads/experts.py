# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Layers with a mixture of experts: a router sends each token through a few of many MLPs.

transformers holds a layer's experts in parameters of three dimensions, (experts, out, in). Each
token is routed by its own state and no expert has a capacity, so neither a row's other tokens nor
padding change its result.

transformers computes experts by grouped products unless told otherwise. These do not support
float64, and on a CPU with several threads the gradients of their inputs differ in the last bits
from one pass to the next.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

NAME = 'mmdpad'
"""Name of :func:`experts_forward` among transformers' implementations of experts."""


def experts_forward(experts: Any, hidden_states: Tensor, top_k_index: Tensor,
                    top_k_weights: Tensor) -> Tensor:
    """Send tokens through their experts: by grouped products on a GPU; one expert after the other
    on a CPU and in float64.

    Args:
        experts: A module of transformers with fused experts.
        hidden_states: (T, D).
        top_k_index: (T, k) long, each token's experts.
        top_k_weights: (T, k), their weights.

    Returns:
        (T, D).
    """
    if hidden_states.device.type == 'cpu' or hidden_states.dtype == torch.float64:
        # The class's own forward, which `use_experts_implementation` wraps.
        return type(experts).forward.__wrapped__(experts, hidden_states, top_k_index,
                                                 top_k_weights)
    return grouped_mm_experts_forward(experts, hidden_states, top_k_index, top_k_weights)


ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)


def experts_of(module: nn.Module) -> dict[str, Any]:
    """Find the modules that hold fused experts, by name; there are none in a dense model."""
    return {name: part for name, part in module.named_modules()
            if hasattr(part, '_is_expert_parallel')}


def set_experts(model: PreTrainedModel) -> None:
    """Let a model compute its experts, if it has any, by :func:`experts_forward`."""
    if experts_of(model):
        model.set_experts_implementation(NAME)
