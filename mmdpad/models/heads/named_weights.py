# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Hands a policy's weights over to another engine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import all_gather_object
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from mmdpad.models.non_finite import local_part
from mmdpad.models.published_layout import swapped_weights

from .adapter_reach import adapted_layers
from .lora import check_mergeable, tied_and_adapted

USE_SHARED_PREFIX = "use `rollout_engine=dict(type='SharedPrefixRollout')`"
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def named_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield each weight once, complete, with the adapter merged, under its original name and in the
    layout of the published files.

    Weights are assembled one at a time, so little memory is needed. Tied weights are yielded once.
    If weights are sharded, all processes must take part.

    Args:
        model: A transformers model, with or without an adapter from :func:`.lora.add_lora`.

    Raises:
        ValueError: See :func:`check_handover`.
    """
    check_handover(model)
    swapped = set(swapped_weights(model))
    for name, parameter in model.named_parameters():
        if '.lora_' in name:
            continue
        value = _to_full(parameter)
        if name in swapped:
            value = value.transpose(-2, -1).contiguous()
        path, in_layer, leaf = name.rpartition('.base_layer.')
        if in_layer:
            name = f'{path}.{leaf}'
            layer: Any = model.get_submodule(path)
            for adapter in layer.active_adapters:
                if leaf == 'weight':
                    value = value + _to_full(layer.get_delta_weight(adapter))
                elif layer.lora_bias[adapter]:
                    value = value + layer.scaling[adapter] * _to_full(layer.lora_B[adapter].bias)
        yield name, value


def check_handover(model: PreTrainedModel, is_quantized: bool | None = None) -> None:
    """Check that another engine can take over a policy's weights.

    Args:
        model: The policy's model; may be on the meta device.
        is_quantized: Whether its weights are quantized; None to ask the model.

    Raises:
        ValueError: The weights are quantized; or the adapter is not just a product of two matrices
            beside a linear layer or an embedding; or it adapts a weight that two layers share.
    """
    if getattr(model, 'is_quantized', False) if is_quantized is None else is_quantized:
        raise ValueError(f'The weights of a policy should not be quantized for another engine to '
                         f'take them over, but are (by `policy.quantization` or in '
                         f'`policy.pretrained`); name the unquantized model without '
                         f'`quantization`, or {USE_SHARED_PREFIX}')
    layers = adapted_layers(model).values()
    if other := [type(variant).__name__ for layer in layers
                 for variant in layer.lora_variant.values()]:
        raise ValueError(f'`policy.lora` should be a plain adapter for another engine to take it '
                         f'over, but got {other[0]}; leave out `use_dora` and the like')
    if any(hasattr(layer, 'parameter_name') for layer in layers):
        raise ValueError(f'`policy.lora` should have no `target_parameters` for another engine to '
                         f'take it over; remove them, or {USE_SHARED_PREFIX}')
    if tied := tied_and_adapted(model):
        raise ValueError(f'`policy.lora` should adapt neither embedding nor output head for '
                         f'another engine to take it over, since they share one weight in this '
                         f'model, but it adapts {" and ".join(tied)}; remove them from '
                         f'`target_modules`, or {USE_SHARED_PREFIX}')
    check_mergeable(model)


@torch.no_grad()
def weights_version(model: PreTrainedModel) -> str:
    """Hash the current weights; any change to them, however it was made, gives another hash.

    The hash is of sums over the bits of each weight. If weights are sharded, all processes must
    take part.
    """
    parameters = [parameter.detach() for parameter in model.parameters()]
    sharded = any(isinstance(value, DTensor) for value in parameters)
    sums: object = torch.cat([_bit_sums(local_part(value)) for value in parameters]).tolist()
    if sharded:
        sums = all_gather_object(sums)
    return hashlib.sha256(repr(sums).encode()).hexdigest()[:16]


def _bit_sums(value: Tensor) -> Tensor:
    """Two sums over a weight's bits (2,) int64, modulo 2^64: those of its rows and of its columns,
    each times its number, so that what only moves changes them, too."""
    bits = value.contiguous().view(_BITS[value.element_size()])
    rows = torch.atleast_1d(bits).unsqueeze(-1).flatten(1)
    return torch.stack([
        (part * torch.arange(1, len(part) + 1, device=part.device)).sum()
        for part in (rows.sum(dim, dtype=torch.int64) for dim in (1, 0))])


def _to_full(value: Tensor) -> Tensor:
    value = value.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value
