# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Recomputation of a layer's operations between its matrix products."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

_aten = torch.ops.aten
# Operations whose outputs are worth their memory: they take most of a layer's time.
_PRODUCTS = frozenset({
    _aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten._grouped_mm.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default})


def keep_products(lora_rank: int) -> dict[str, Any]:
    """Arguments of ``checkpoint`` that keep the outputs of matrix products and attention.

    Args:
        lora_rank: Rank of an adapter; products over so few numbers are repeated.
    """
    return dict(context_fn=partial(create_selective_checkpoint_contexts,
                                   partial(_policy, lora_rank)))


def _policy(lora_rank: int, context: Any, operation: Any, *args: Any,
            **kwargs: Any) -> CheckpointPolicy:
    if operation not in _PRODUCTS:
        return CheckpointPolicy.PREFER_RECOMPUTE
    if operation in (_aten.mm.default, _aten.addmm.default) and args[-1].shape[0] == lora_rank:
        return CheckpointPolicy.PREFER_RECOMPUTE
    return CheckpointPolicy.MUST_SAVE
