# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Models whose weights are spread over processes (FSDP2), and whole tensors next to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(model: nn.Module) -> bool:
    """Whether a forward pass exchanges weights, so that every process has to do as many."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """A context in which each process holds all weights of a part of a model (not of the whole
    model, whose own are gathered by its forward pass), so that it may do as many forward passes as
    it likes without the others. Where nothing is sharded nothing changes.

    Nothing in it may ask for the model's state, which shards it again, nor train.
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
    """Whole tensors, equal on all processes, cut as those of the same names in ``own`` are."""
    return {name: _cut(value, own.get(name)) for name, value in given.items()}


def whole(tensor: Any) -> Any:
    """A sharded tensor as a whole one on the CPU, by all processes together; else the same."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def _cut(value: Any, own: Any) -> Any:
    is_whole = isinstance(value, Tensor) and not isinstance(value, DTensor)
    if not (is_whole and isinstance(own, DTensor) and value.shape == own.shape):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements,
                             src_data_rank=None)
