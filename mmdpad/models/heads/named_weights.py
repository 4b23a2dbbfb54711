# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The weights of a policy as another engine takes them over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from mmengine.dist import all_gather_object
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def named_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Each weight once, whole and with the adapter in it, under the name that it has without one.

    One weight at a time is put together, so that little memory is needed. Tied weights come once.
    Where weights are sharded, all processes have to take part.

    Args:
        model: A model of transformers, with or without an adapter of :func:`.lora.add_lora`.

    Raises:
        ValueError: Weights are quantized, or the adapter is more than a product of two matrices.
    """
    check_whole(model)
    for name, parameter in model.named_parameters():
        if '.lora_' in name:
            continue
        value = _whole(parameter)
        path, in_layer, leaf = name.rpartition('.base_layer.')
        if in_layer:
            name = f'{path}.{leaf}'
            if leaf == 'weight':
                layer = model.get_submodule(path)
                if layer.lora_variant:
                    raise ValueError(f'`policy.lora` should be a plain adapter for another engine '
                                     f'to take it over, but got '
                                     f'{type(next(iter(layer.lora_variant.values()))).__name__}; '
                                     f'leave `use_dora` and the like out')
                for adapter in layer.active_adapters:
                    value = value + _whole(layer.get_delta_weight(adapter))
        yield name, value


def check_whole(model: PreTrainedModel) -> None:
    """
    Raises:
        ValueError: Weights are quantized, by ``policy.quantization`` or in the folder already.
    """
    if getattr(model, 'is_quantized', False):
        raise ValueError('The weights of a policy should not be quantized for another engine to '
                         'take them over, but are, by `policy.quantization` or in the folder '
                         '`policy.pretrained`; leave it out, name the model that was quantized, or '
                         "use `rollout_engine=dict(type='SharedPrefixRollout')`")


@torch.no_grad()
def weights_version(model: PreTrainedModel) -> str:
    """A name for the present weights: another one after any change, however it was made.

    It is made of a sum over each weight's bits, which reads every weight once; where weights are
    sharded, all processes have to take part.
    """
    parameters = [parameter.detach() for parameter in model.parameters()]
    sharded = any(isinstance(value, DTensor) for value in parameters)
    own = [value.to_local() if isinstance(value, DTensor) else value for value in parameters]
    sums: object = torch.stack([
        value.contiguous().view(_BITS[value.element_size()]).sum(dtype=torch.int64)
        for value in own]).tolist()
    if sharded:
        sums = all_gather_object(sums)
    return hashlib.sha256(repr(sums).encode()).hexdigest()[:16]


def _whole(value: Tensor) -> Tensor:
    value = value.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value
