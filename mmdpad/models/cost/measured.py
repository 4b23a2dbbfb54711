# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What passes of a policy hold and compute, measured with fake tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmdpad.models.heads import shared_prefix
from mmdpad.models.heads.adapter_reach import adapted_layers, lora_targets
from mmdpad.models.heads.families import family_of
from mmdpad.models.heads.kept_products import keep_products
from mmdpad.models.heads.lora import add_lora
from mmdpad.models.heads.packed_attention import CopiedPrompts, JoinedAttention, PackedGroup

from .fake_policy import (
    CPU,
    Arithmetic,
    Call,
    FakePolicy,
    ImageInputs,
    build_on_meta,
    each_kind_once,
    share_alike,
    skipped,
    tensors_in,
)
from .tracking import OperationCounter, Operations, StorageTracker

T = TypeVar('T')
SAMPLE = 64
"""Tokens of a pass in which operations and the cache are counted: one chunk of gated DeltaNet."""


@dataclass(frozen=True)
class LayerBytes:
    """Bytes of one layer.

    Attributes:
        kept: What it keeps until its backward pass.
        state: Its input, all that is kept if the layer is recomputed.
        backward_peak: What its backward pass holds at the peak, including what was kept and the
            gradient of a weight before it is added to others.
    """

    kept: int
    state: int
    backward_peak: int


@dataclass(frozen=True)
class PartBytes:
    """Bytes of the language model or of the vision tower.

    Attributes:
        layers: Of each layer or block that is trained, or that gradients flow through.
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


@dataclass(frozen=True)
class AdapterCounts:
    """Sizes of an adapter.

    Attributes:
        weights: Number of its weights.
        per_token, per_pass: Multiply-adds of a pass, for each token and besides.
    """

    weights: int
    per_token: int
    per_pass: int


class Measurements:
    """Measures passes of a policy. What was measured before is looked up.

    Args:
        config: The policy's config of transformers.
        lora: The arguments of its adapter, see :class:`.VLMReasoningHead`.
    """

    def __init__(self, config: Any, lora: dict[str, Any]) -> None:
        self._config, self._lora = config, lora
        self._model = lru_cache(4)(self._build)
        self._policy = lru_cache(8)(self._fake)
        self._text_pass = lru_cache(1)(self._run_text)
        self.text = lru_cache(256)(self._text)
        self.products = lru_cache(256)(self._products)
        self.tower = lru_cache(256)(self._tower)
        self.image_flops = lru_cache(256)(self._image_flops)

    def __reduce__(self) -> Any:  # copies and pickles measure anew
        return Measurements, (self._config, self._lora)

    def _build(self, rank: int) -> tuple[Any, AdapterCounts]:
        """The model on the meta device, with an adapter if the rank is not 0, and the sizes of that
        one. Layers that are alike are the same."""
        model, counts = build_on_meta(self._config), AdapterCounts(0, 0, 0)
        if rank:
            add_lora(model, {**self._lora, 'r': rank})
            counts = self._count_adapter(model, rank)
        share_alike(model)
        return model, counts

    def _fake(self, arithmetic: Arithmetic) -> FakePolicy:
        return FakePolicy(self._model(arithmetic.lora_rank)[0], arithmetic)

    def adapter(self, rank: int) -> AdapterCounts:
        """Sizes of an adapter of a rank.

        Raises:
            ValueError: It cannot be built, or is in the vision tower or in an embedding.
        """
        return self._model(rank)[1]

    def _count_adapter(self, model: Any, rank: int) -> AdapterCounts:
        layers = adapted_layers(model)
        wrong = [name for name, layer in layers.items()
                 if family_of(model).is_vision(name)
                 or isinstance(layer.get_base_layer(), nn.Embedding)]
        if wrong:
            raise ValueError(f'`lora.target_modules` should match layers of the language model, '
                             f'and none of the vision tower, for estimates and `memory_budget`, '
                             f'but {lora_targets(self._lora, None)!r} matches {wrong[:2]}; choose '
                             f'other layers, or leave `memory_budget` out')
        weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
        # Of parameters, such as those of experts, the product of the adapter's matrices is added.
        added = [layer for layer in layers.values() if hasattr(layer, 'parameter_name')]
        own = sum(p.numel() for layer in added for name, p in layer.named_parameters()
                  if p.requires_grad and 'base_layer' not in name)
        return AdapterCounts(weights, weights - own, rank * sum(
            getattr(layer.get_base_layer(), layer.parameter_name).numel() for layer in added))

    def _text(self, arithmetic: Arithmetic, prompt: int,
              responses: tuple[int, ...]) -> PartBytes:
        """The language model's pass over a prompt and its responses of these lengths; without
        shared prompts, over one sequence of a prompt and a response. Prompts alone have no backward
        pass."""
        return self._text_pass(arithmetic, prompt, responses).measure(sum(responses) > 0)

    def _products(self, arithmetic: Arithmetic, prompt: int,
                  responses: tuple[int, ...]) -> tuple[int, ...]:
        """Bytes that each layer keeps in that pass if only outputs of matrix products and attention
        are kept, with its input."""
        return self._text_pass(arithmetic, prompt, responses).measure_products()

    def _run_text(self, arithmetic: Arithmetic, prompt: int,
                  responses: tuple[int, ...]) -> _Pass:
        policy, row = self._policy(arithmetic), {}
        if arithmetic.shared:
            groups = [PackedGroup(prompt, responses)]
            row['layout'] = shared_prefix.PackedRow(groups, CPU)
            row['layout'].attention = (JoinedAttention if arithmetic.on_cpu else CopiedPrompts)(
                groups, CPU)
        states = policy.empty(1, prompt + sum(responses), policy.language.config.hidden_size)
        return _Pass(policy, policy.language.layers, states, lambda states: [
            policy.read(states, **row).last_hidden_state])

    def _tower(self, arithmetic: Arithmetic, image: ImageInputs) -> PartBytes:
        """The vision tower's pass over an image."""
        policy = self._policy(arithmetic)
        return _Pass(policy, policy.family.blocks(policy.model), policy.empty(0),
                     lambda _: policy.see(image)).measure(arithmetic.trains_vision)

    def _image_flops(self, image: ImageInputs) -> tuple[int, int]:
        """Operations of a forward pass of the vision tower over an image: of all of it, and of its
        blocks."""
        policy, counter = self._policy(Arithmetic(shared=True)), OperationCounter()
        around: list[Operations] = []

        def count() -> Operations:
            around.append(counter.take())
            return around[-1]

        with torch.no_grad(), counter, each_kind_once(
                policy, policy.family.blocks(policy.model), count) as calls:
            policy.see(image)
        # Before and after each block that ran: what was in between is in every second one.
        ends = sum(part.total for part in around[::2]) + counter.take().total
        blocks = sum(calls[call.kind].counted.total for call in calls)
        return ends + blocks, blocks

    def counts(self) -> list[LayerCounts]:
        """What each layer of the language model computes and stores."""
        policy, counter = self._policy(Arithmetic()), OperationCounter()
        with torch.no_grad(), counter, each_kind_once(
                policy, policy.language.layers, counter.take) as calls:
            output = policy.read(policy.empty(1, SAMPLE, policy.language.config.hidden_size),
                                 use_cache=True)
        found = {}
        for kind in {call.kind for call in calls}:
            counted = calls[kind].counted
            found[kind] = LayerCounts(counted.products // (2 * SAMPLE), counted.width,
                                      *_cache_numbers(output.past_key_values.layers[kind]))
        return [found[call.kind] for call in calls]


def _cache_numbers(cache: Any) -> tuple[int, int]:
    """Numbers per token and per sequence in a layer's cache of transformers."""
    def count(*names: str) -> int:
        return sum(x.numel() for name in names
                   for x in tensors_in(getattr(cache, name, None)))

    return count('keys', 'values') // SAMPLE, count('conv_states', 'recurrent_states')


class _Pass:
    """A forward pass of a part of a policy, without gradients.

    Args:
        policy: The policy.
        layers: The part's layers.
        states: Its input.
        run: Maps the input to the part's outputs.
    """

    def __init__(self, policy: FakePolicy, layers: Any, states: Tensor,
                 run: Callable[[Tensor], list[Tensor]]) -> None:
        self.policy, self.layers, self.states, self.run = policy, layers, states, run
        with (torch.no_grad(), each_kind_once(policy, layers) as self.calls,
              self._track() as forward):
            run(states)
        self.peak = forward.peak + states.nbytes

    def _track(self) -> StorageTracker:
        return StorageTracker([self.states, *self.policy.tensors],
                              self.policy.model.parameters())

    def measure(self, trained: bool) -> PartBytes:
        """What the part holds in such passes, and in those with gradients if it is trained."""
        if not trained:
            return PartBytes((), 0, self.peak)
        layers = self._of_layers(_measure_layer)
        with self._track() as ends, skipped(self.layers, self.calls):
            held = [_Output.apply(x) for x in self.run(_Input.apply(
                torch.zeros((), requires_grad=True), self.states))]
        kept = ends.now + _bytes_of((self.calls[0].args, self.calls[0].kwargs))
        del held
        return PartBytes(layers, kept, self.peak)

    def measure_products(self) -> tuple[int, ...]:
        """What each layer keeps if only outputs of products and attention are kept."""
        return self._of_layers(_measure_products)

    def _of_layers(self, measure: Callable[[FakePolicy, nn.Module, Call], T]) -> tuple[T, ...]:
        """What a measurement gives for each layer; once for those that are alike."""
        found = {kind: measure(self.policy, self.layers[kind], self.calls[kind])
                 for kind in {call.kind for call in self.calls}}
        return tuple(found[call.kind] for call in self.calls)


def _bytes_of(tree: Any) -> int:
    """Bytes of the storages of all tensors in nested containers."""
    storages = [x.untyped_storage() for x in tensors_in(tree)]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def _measure_layer(policy: FakePolicy, layer: nn.Module, how: Call) -> LayerBytes:
    """Measure a layer as it was called."""
    tracker, output, size = _run_layer(policy, layer, how, lambda call, states: call(states))
    kept = tracker.now
    with tracker:
        output.backward()
    return LayerBytes(kept, size, tracker.peak)


def _measure_products(policy: FakePolicy, layer: nn.Module, how: Call) -> int:
    """Bytes that a layer keeps if only its input and outputs of products are kept."""
    options = keep_products(policy.arithmetic.lora_rank)
    tracker, _output, _ = _run_layer(policy, layer, how, lambda call, states: checkpoint(
        call, states, use_reentrant=False, **options))
    return tracker.now


def _run_layer(policy: FakePolicy, layer: nn.Module, how: Call,
               run: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
               ) -> tuple[StorageTracker, Tensor, int]:
    """Run a layer as it was called, with gradients, by ``run`` (of a function and its input).
    Returns what tracks its bytes, what its backward pass begins with, and bytes of its input."""
    assert how.states is not None
    states = how.states()

    def call(states: Tensor) -> Tensor:
        output = layer(states, *how.args, **how.kwargs)
        return output[0] if how.in_tuple else output

    tracker = StorageTracker([*policy.tensors, how.args, how.kwargs], policy.model.parameters())
    anchor = torch.zeros((), requires_grad=True)
    with tracker, policy.autocast():
        output = _Output.apply(run(call, _Input.apply(anchor, states)))
    tracker.peak = tracker.now
    return tracker, output, states.nbytes


class _Input(torch.autograd.Function):
    """Makes states that nothing but the layers after it holds."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, states: Tensor) -> Tensor:
        ctx.anchor = anchor
        return torch.empty_like(states)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return torch.zeros_like(ctx.anchor), None


class _Output(torch.autograd.Function):
    """Takes states without holding them, and makes their gradient."""

    @staticmethod
    def forward(ctx: Any, states: Tensor) -> Tensor:
        ctx.shape = states.shape
        return states.new_empty(())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.new_empty(ctx.shape)


def coarse(length: int) -> int:
    """A length rounded to three binary digits: bytes per token hardly depend on it, and updates
    have responses of ever new lengths, while each one that is measured takes time."""
    step = 1 << max(0, length.bit_length() - 3)
    return round(length / step) * step


def response_lengths(size: int, mean: int, longest: int) -> tuple[int, ...]:
    """Lengths of a group's responses: one is the longest, and their mean is about the given one."""
    if not mean:
        return ()
    longest = max(longest, mean)
    others = max(1, round((size * mean - longest) / max(1, size - 1)))
    return (longest, *[others] * (size - 1))
