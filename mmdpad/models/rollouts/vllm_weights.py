# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Gives a running vLLM engine the policy's weights, and checks that it took all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn


def reload_weights(llm: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Replace all weights of an engine in this process, and clear its caches.

    Args:
        llm: A ``vllm.LLM`` whose engine runs in this process.
        weights: Names, as a checkpoint has them, and complete weights.

    Raises:
        RuntimeError: vLLM did not take all weights, or its own got none; it must not be used then.
    """
    (model, ) = llm.apply_model(lambda model: model)
    try:
        llm.collective_rpc('reload_weights',
                           kwargs=dict(weights_iterator=_complete(weights, model)))
    except (ValueError, KeyError, AttributeError) as error:  # what its loaders raise
        raise RuntimeError(f'vLLM should take all weights of the policy, but refused one: {error}; '
                           f'this version of vLLM gives them other names') from error
    llm.apply_model(_process_shared)
    # All were computed with the old weights.
    if not llm.reset_prefix_cache():
        raise RuntimeError('vLLM should clear its cache of prompts, but did not; no request should '
                           'run while weights change')
    llm.reset_mm_cache()
    llm.llm_engine.reset_encoder_cache()


def _complete(weights: Iterable[tuple[str, Tensor]], model: nn.Module
              ) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights, then raise a RuntimeError unless each of ``model``'s got all its values.

    vLLM itself only logs a warning. A layer that got some of its weights, such as one of query,
    key and value, would even keep uninitialized memory.
    """
    yield from weights
    if missing := find_missing(model):
        raise RuntimeError(f'vLLM should have taken all weights of the policy, but {len(missing)} '
                           f'of its own got none or a part, for example {missing[0]}; this version '
                           f'of vLLM gives them other names')


def _process_shared(model: nn.Module) -> None:
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
