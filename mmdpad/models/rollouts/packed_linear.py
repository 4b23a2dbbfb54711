# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Linear layers for the few rows of a decoding step on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

MIN_WEIGHTS = 2**18
"""Smaller layers gain nothing, since their weights stay in the core's cache."""


@contextmanager
def packed_linears(*modules: nn.Module) -> Iterator[None]:
    """A context in which large float32 linear layers on a CPU have weights in oneDNN's own layout.

    A product of a few rows with a large weight is bound by reading the weight, and the usual
    kernel repacks it for every product. The weights must not change within the context. Other
    layers, layers under autocast, and torch without oneDNN are not affected.

    Args:
        modules: Modules whose linear layers, at any depth, are packed.
    """
    layers: list[Any] = [layer for module in modules for layer in module.modules() if _gains(layer)]
    for layer in layers:
        layer.forward = _packed_forward(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _gains(layer: nn.Module) -> bool:
    return (type(layer) is nn.Linear and should_pack(layer.weight)
            and 'forward' not in vars(layer) and not torch.is_autocast_enabled('cpu'))


def should_pack(weight: Tensor) -> bool:
    """Whether a product of a few rows with a weight (E, D) gains from oneDNN's layout."""
    return (weight.device.type == 'cpu' and weight.dtype == torch.float32
            and weight.numel() >= MIN_WEIGHTS and torch.backends.mkldnn.is_available())


def packed_product(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return the function from (..., D) to (..., E) of a copy of a weight (E, D)."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 8)
    return lambda rows: torch.ops.mkldnn._linear_pointwise(rows, packed, bias, 'none', [], '')


def _packed_forward(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    product = packed_product(layer.weight, layer.bias)

    def forward(rows: Tensor) -> Tensor:
        if type(layer) is not nn.Linear:  # while peft replaces its weight
            return nn.Linear.forward(layer, rows)
        return product(rows)

    return forward
