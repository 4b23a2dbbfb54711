# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Tools for models whose weights are sharded over processes (FSDP2), and for their full tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(model: nn.Module) -> bool:
    """Whether forward passes exchange weights, so that every process must run equally many."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Within the block, each process holds all weights of a part of a model and can run any number
    of forward passes without the other processes. Pass a part, not the full model, whose own
    weights are gathered by its forward pass. Does nothing if nothing is sharded.

    Do not train in the block or get the model's state, which shards the model again.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(bool(part.reshards), recurse=False)


def shard_as(given: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Shard full tensors, equal on all processes, like those of the same names in ``own``."""
    return {name: _cut(value, own.get(name)) for name, value in given.items()}


def to_full(tensor: Any) -> Any:
    """Gather a sharded tensor on the CPU, on all processes together; return anything else as is."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def _cut(value: Any, own: Any) -> Any:
    is_full = isinstance(value, Tensor) and not isinstance(value, DTensor)
    if not (is_full and isinstance(own, DTensor) and value.shape == own.shape):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements,
                             src_data_rank=None)
