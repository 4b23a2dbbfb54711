# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks and completes a reload of vLLM's weights, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def biases_required() -> Iterator[None]:
    """Make vLLM refuse a bias that its model lacks, as it refuses any other weight.

    It would skip it, as some quantized checkpoints hold biases that mean nothing.
    """
    from vllm.model_executor.models.utils import AutoWeightsLoader
    can_skip = AutoWeightsLoader._can_ignore_unexpected

    def can_skip_others(loader: AutoWeightsLoader, name: str) -> bool:
        return not name.endswith('.bias') and can_skip(loader, name)

    AutoWeightsLoader._can_ignore_unexpected = can_skip_others
    try:
        yield
    finally:
        AutoWeightsLoader._can_ignore_unexpected = can_skip


def forget_packed_experts(model: nn.Module) -> None:
    """Make vLLM pack experts for a CPU in the next reload, as it does at its start.

    vLLM packs them only for a new kernel, so a reload would leave weights in a layout that the
    kernel does not read.
    """
    layer: Any
    for layer in model.modules():
        method: Any = getattr(layer, 'quant_method', None)
        if getattr(getattr(method, 'unquantized_backend', None), 'name', '') == 'CPU':
            method.moe_kernel = None


def process_shared(model: nn.Module) -> None:
    """Process the weights that layers share for each of them, as vLLM does at its start.

    After a reload vLLM does so for the first layer only, so that an output head which shares the
    embedding would compute with its old weights where it has its own packed copy, as on a CPU.
    """
    seen: set[int] = set()
    layer: Any
    for layer in model.modules():
        shared = [one for one in layer.parameters(recurse=False) if one.data_ptr() in seen]
        if shared and hasattr(layer, 'quant_method'):
            layer.quant_method.process_weights_after_loading(layer)
        seen.update(one.data_ptr() for one in layer.parameters(recurse=False) if one.numel())


def find_missing(model: nn.Module) -> list[str]:
    """List the parameters that have not got all their values, during a reload by vLLM.

    Args:
        model: vLLM's model. Its layers count the elements they have been given until they have all.
    """
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
    lacking: list[tuple[str, nn.Parameter]] = []
    filled: set[int] = set()
    for path, layer in model.named_modules():
        info = get_layerwise_info(layer)
        parameters = dict(layer.named_parameters(recurse=False))
        if not parameters:
            continue
        if not info.can_load():  # complete, so in use again
            filled.update(parameter.data_ptr() for parameter in parameters.values())
            continue
        used = info.kernel_tensors[0]
        given = {name for name, _ in info.loaded_weights}
        if info.load_numel >= sum(_size(layer, one) for one in parameters.values()):
            filled.update(parameter.data_ptr() for parameter in used.values())
        else:
            lacking += [(f'{path}.{name}', used[name]) for name in
                        (parameters.keys() - given or parameters)]
    # An output head may share the embedding's memory. One that was repacked has none of its own.
    filled.discard(0)
    return sorted(name for name, parameter in lacking if parameter.data_ptr() not in filled)


def _size(layer: Any, parameter: nn.Parameter) -> int:
    """Count the values that a checkpoint has for a parameter: no padding of the vocabulary."""
    rows = getattr(layer, 'num_embeddings_padded', None)
    return parameter.numel() * layer.org_vocab_size // rows if rows else parameter.numel()


def drop_half_loaded(model: nn.Module, model_config: Any) -> None:
    """Undo a reload that did not end: put the former weights back where a layer lacks some.

    A new reload would otherwise count what such a layer has got already, and use it before it has
    got the rest.

    Args:
        model: vLLM's model. Layers that got all their weights keep the new ones.
        model_config: vLLM's configuration of it.
    """
    from vllm.model_executor.model_loader.reload import layerwise
    infos = [layerwise.get_layerwise_info(layer) for layer in model.modules()]
    if begun := [info for info in infos if info.can_load()]:
        for info in begun:
            info.load_numel = 0
            info.loaded_weights.clear()
        layerwise.finalize_layerwise_reload(model, model_config)
