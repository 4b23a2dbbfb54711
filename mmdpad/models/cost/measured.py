# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What passes of a policy hold and compute, measured with fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from mmdpad.models.heads import shared_prefix
from mmdpad.models.heads.kept_products import keep_products
from mmdpad.models.heads.packed_attention import CopiedPrompts, JoinedAttention, PackedGroup

from .fake_policy import CPU, Arithmetic, FakePolicy, ImageInputs, recorded, signature
from .tracking import OperationCounter, StorageTracker

SAMPLE = 64
"""Tokens of a pass in which operations and the cache are counted: one chunk of gated DeltaNet."""


@dataclass(frozen=True)
class LayerBytes:
    """Bytes of one layer.

    Attributes:
        kept: What it keeps until its backward pass.
        state: Its input, all that is kept if the layer is recomputed.
        backward_peak: What its backward pass holds at the peak, including what was kept and a
            weight's gradient before it is added to others.
        products: Its input and the outputs of matrix products and attention, all that is kept if
            only the operations between them are repeated.
    """

    kept: int
    state: int
    backward_peak: int
    products: int = 0


@dataclass(frozen=True)
class PartBytes:
    """Bytes of the language model or of the vision tower.

    Attributes:
        layers: Of each layer or block.
        ends: Kept before the first and after the last of them.
        forward: Peak of a forward pass without gradients, its input included.
    """

    layers: tuple[LayerBytes, ...]
    ends: int
    forward: int


@dataclass(frozen=True)
class LayerCounts:
    """What a layer of the language model computes and stores.

    Attributes:
        multiplied: Multiply-adds per token in matrix products.
        attended: Width of all queries; 0 without attention.
        cached: Numbers of keys and values per token.
        state: Numbers of a recurrent state per sequence.
    """

    multiplied: int
    attended: int
    cached: int
    state: int


class Measurements:
    """Measures passes of a policy; a measurement that was made before is looked up.

    Args:
        config: The policy's config of transformers.
        lora: The arguments of its adapter, see :class:`.VLMReasoningHead`.
    """

    def __init__(self, config: Any, lora: dict[str, Any]) -> None:
        self._config, self._lora = config, lora
        self._policy = lru_cache(8)(self._build)
        self.text = lru_cache(256)(self._text)
        self.tower = lru_cache(256)(self._tower)
        self.image_flops = lru_cache(256)(self._image_flops)

    def _build(self, arithmetic: Arithmetic) -> FakePolicy:
        return FakePolicy(self._config, arithmetic, self._lora)

    def _text(self, arithmetic: Arithmetic, prompt: int,
              responses: tuple[int, ...]) -> PartBytes:
        """The language model's pass over a prompt and its responses of these lengths; without
        shared prompts, over one sequence of a prompt and a response."""
        policy = self._policy(arithmetic)
        language, tokens, row = policy.language, prompt + sum(responses), {}
        if arithmetic.shared:
            groups = [PackedGroup(prompt, responses)]
            row['layout'] = shared_prefix.PackedRow(groups, CPU)
            row['layout'].attention = (JoinedAttention if arithmetic.on_cpu else CopiedPrompts)(
                groups, CPU)
        states = policy.empty(1, tokens, policy.language.config.hidden_size)
        calls: list[tuple] = []
        with torch.no_grad(), recorded(language.layers, lambda *call: calls.append(call)):
            with StorageTracker([states, *policy.tensors], policy.model.parameters()) as tracker:
                policy.read(states, **row)
        measured = {kind: _measure(policy, language.layers[kind], *calls[kind][1:])
                    for kind in {*policy.kinds}}
        layers, language.layers = language.layers, nn.ModuleList()
        with StorageTracker(policy.tensors, policy.model.parameters()) as ends:
            output = _Output.apply(policy.read(_enter(states), **row).last_hidden_state)
            kept = ends.now
        del output
        language.layers = layers
        return PartBytes(tuple(measured[kind] for kind in policy.kinds),
                         kept + _passed(calls[0][1:], states), tracker.peak + states.nbytes)

    def _tower(self, arithmetic: Arithmetic, image: ImageInputs) -> PartBytes:
        """The vision tower's pass over an image."""
        policy = self._policy(arithmetic)
        blocks = policy.family.blocks(policy.model)
        calls: list[tuple] = []
        with torch.no_grad(), recorded(blocks, lambda *call: calls.append(call)):
            with StorageTracker(policy.tensors, policy.model.parameters()) as tracker:
                policy.see(image)
        if not arithmetic.trains_vision:
            return PartBytes((), 0, tracker.peak)
        measured: dict[Any, LayerBytes] = {}
        kinds = [(signature(blocks[number]), *(x.shape for x in tree_leaves((args, kwargs))
                                               if isinstance(x, Tensor)))
                 for number, args, kwargs in calls]
        for kind, (number, args, kwargs) in zip(kinds, calls, strict=True):
            if kind not in measured:
                measured[kind] = _measure(policy, blocks[number], args, kwargs)
        own = tuple(measured[kind] for kind in kinds)
        with StorageTracker(policy.tensors, policy.model.parameters()) as total:
            features = policy.see(image)
            kept = total.now - sum(x.nbytes for x in features)
        return PartBytes(own, max(0, kept - sum(block.kept for block in own)), tracker.peak)

    def _image_flops(self, image: ImageInputs) -> tuple[int, int]:
        """Operations of a forward pass of the vision tower over an image: of all of it, and of its
        blocks."""
        policy = self._policy(Arithmetic(shared=True))
        blocks, at_start = policy.family.blocks(policy.model), []
        counter = OperationCounter()
        with torch.no_grad(), counter, recorded(
                blocks, lambda *_: at_start.append(counter.products + counter.attention)):
            policy.see(image)
        every = counter.products + counter.attention
        # The last block is like the one before it, or the only one.
        inner = at_start[-1] - at_start[0]
        return every, inner * len(blocks) // (len(blocks) - 1) if len(blocks) > 1 else every

    def counts(self) -> list[LayerCounts]:
        """What each layer of the language model computes and stores."""
        policy = self._policy(Arithmetic())
        language, places = policy.language, []
        counter = OperationCounter()

        def note(*_: Any) -> None:
            places.append((counter.products, counter.width))
            counter.width = 0

        with torch.no_grad(), counter, recorded(language.layers, note):
            output = policy.read(policy.empty(1, SAMPLE, language.config.hidden_size),
                                 use_cache=True)
        note()
        found = []
        for number, ((before, _), (after, width)) in enumerate(zip(places, places[1:])):
            cache = output.past_key_values.layers[number]
            found.append(LayerCounts((after - before) // (2 * SAMPLE), width,
                                     *_cache_numbers(cache)))
        return [found[kind] for kind in policy.kinds]


def _cache_numbers(cache: Any) -> tuple[int, int]:
    """Numbers per token and per sequence in a layer's cache."""
    pairs = [getattr(cache, name, None) for name in ('keys', 'values')]
    per_token = sum(x.numel() for x in pairs if x is not None) // SAMPLE
    state = sum(x.numel() for name in ('conv_states', 'recurrent_states')
                for x in tree_leaves(getattr(cache, name, None)) if isinstance(x, Tensor))
    return per_token, state


def _passed(arguments: Any, states: Tensor) -> int:
    """Bytes of the tensors that all layers get, besides states."""
    storages = {x.untyped_storage()._cdata: x.untyped_storage().nbytes()
                for x in tree_leaves(arguments)
                if isinstance(x, Tensor) and x.shape != states.shape}
    return sum(storages.values())


def _measure(policy: FakePolicy, layer: nn.Module, args: tuple,
             kwargs: dict[str, Any]) -> LayerBytes:
    """Measure a layer for the arguments that it was called with."""
    states, *others = args if args else [kwargs['hidden_states']]
    kwargs = {name: value for name, value in kwargs.items() if name != 'hidden_states'}

    def call(states: Tensor) -> Tensor:
        output = layer(states, *others, **kwargs)
        return output if isinstance(output, Tensor) else output[0]

    def run(function: Callable[[Tensor], Tensor]) -> tuple[StorageTracker, Tensor, int]:
        tracker = StorageTracker([*policy.tensors, *tree_leaves((others, kwargs))],
                                 policy.model.parameters())
        with tracker, policy.autocast():
            output = _Output.apply(function(_enter(states)))
        return tracker, output, tracker.now

    tracker, output, kept = run(call)
    tracker.peak = tracker.now
    with tracker:
        output.backward()
    peak, products = tracker.peak, 0
    if policy.arithmetic.keeps_products:
        options = keep_products(policy.arithmetic.lora_rank)
        _, output, products = run(
            lambda states: checkpoint(call, states, use_reentrant=False, **options))
    return LayerBytes(kept, states.nbytes, peak, products)


class _Input(torch.autograd.Function):
    """Makes states that nothing but the layers after it holds."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, states: Tensor) -> Tensor:
        ctx.anchor = anchor
        return torch.empty_like(states)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return torch.zeros_like(ctx.anchor), None


def _enter(states: Tensor) -> Tensor:
    return _Input.apply(torch.zeros((), requires_grad=True), states)


class _Output(torch.autograd.Function):
    """Takes states without holding them, and makes their gradient."""

    @staticmethod
    def forward(ctx: Any, states: Tensor) -> Tensor:
        ctx.shape, ctx.empty = states.shape, states.new_empty
        return states.new_empty(())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.new_empty(ctx.shape)


def coarse(length: int) -> int:
    """A length in four binary digits, so that few lengths are measured."""
    step = 1 << max(0, length.bit_length() - 4)
    return -(-length // step) * step


def group_lengths(size: int, mean: int, longest: int) -> Sequence[int]:
    """Lengths of a group's responses, one of them the longest, with about this mean."""
    longest = max(longest, mean)
    others = max(1, round((size * mean - longest) / max(1, size - 1)))
    return (longest, *[others] * (size - 1)) if mean else ()
