# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Tools for models whose weights are sharded over processes (FSDP2), and for their full tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard


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
    """Shard full tensors, equal on all processes, like those of the same names in ``own``. The
    shards are copies; of a tensor that is mapped from a file, only the shard is read."""
    return {name: _cut(value, own.get(name)) for name, value in given.items()}


def to_full(tensor: Any) -> Any:
    """Gather a sharded tensor on the CPU, on all processes together; return anything else as is."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def _cut(value: Any, own: Any) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, DTensor):
        return value
    if not isinstance(own, DTensor) or value.shape != own.shape:
        return value.clone()  # not the file, which may be mapped
    return shard_of(value, own, own.device, value.dtype)


def shard_of(value: Tensor, own: DTensor, device: torch.device | str,
             dtype: torch.dtype) -> DTensor:
    """Copy this process's shard of a full tensor, equal on all processes, to a device.

    Args:
        value: The full tensor.
        own: A sharded tensor of the same shape (over one dimension of processes, as FSDP2 makes
            them), whose sharding is used; it may be on the meta device.
        device, dtype: Of the shard.
    """
    (placement, ) = own.placements
    assert isinstance(placement, Shard)
    parts = value.chunk(own.device_mesh.size(), placement.dim)
    rank = own.device_mesh.get_local_rank()
    part = parts[rank] if rank < len(parts) else value.narrow(placement.dim, 0, 0)
    part = part.to(device, dtype, copy=True).contiguous()
    return DTensor.from_local(part, own.device_mesh, own.placements, run_check=False,
                              shape=own.shape, stride=own.stride())


def fill(model: nn.Module, values: dict[str, Tensor], device: torch.device | str) -> None:
    """Replace sharded parameters on the meta device with the shards of full tensors.

    Args:
        model: A model after ``fully_shard``.
        values: Parameters' (first) names -> full tensors, equal on all processes; emptied.
        device: The device of the shards.
    """
    empty = {own: values.pop(name) for name, own in list(model.named_parameters())
             if name in values}
    # As `to_empty` does it; FSDP2 updates its references to the parameters.
    model._apply(lambda own: shard_of(empty.pop(own), own, device, own.dtype)
                 if own in empty else own)
