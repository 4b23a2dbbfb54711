# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Gives a running vLLM engine the policy's weights, and checks that it took all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from .vllm_worker.mmdpad_reload import (
    biases_required,
    find_missing,
    forget_packed_experts,
    process_shared,
)


def reload_weights(llm: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Replace all weights of an engine in this process, and clear its caches.

    Args:
        llm: A ``vllm.LLM`` whose engine runs in this process.
        weights: Names, as a checkpoint has them, and complete weights.

    Raises:
        RuntimeError: vLLM did not take all weights, or its own got none; it must not be used then.
    """
    (model, ) = llm.apply_model(lambda model: model)
    forget_packed_experts(model)
    try:
        with biases_required():
            llm.collective_rpc('reload_weights',
                               kwargs=dict(weights_iterator=_complete(weights, model)))
    except (ValueError, KeyError, AttributeError) as error:  # what its loaders raise
        raise RuntimeError(f'vLLM should take all weights of the policy, but refused one: {error}; '
                           f'this version of vLLM gives them other names, or config.json lacks a '
                           f'key that it reads (docs/rollouts.md)') from error
    llm.apply_model(process_shared)
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
