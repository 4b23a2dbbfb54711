# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A policy of fake tensors, which have a shape and a dtype but no memory. Its passes run the code
of real ones, so what they hold and compute can be measured for any family by its config.json."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from mmdpad.models.heads import shared_prefix, vision_tower
from mmdpad.models.heads.encoded_prompt import EncodedPrompt
from mmdpad.models.heads.experts import experts_of
from mmdpad.models.heads.families import family_of
from mmdpad.models.heads.recurrent_layers import share_states

CPU = torch.device('cpu')
_DTYPES = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}


@dataclass(frozen=True)
class Arithmetic:
    """How a policy computes, as far as the bytes of its layers depend on it.

    Attributes:
        weight_bytes, amp, lora_rank, on_cpu: As in :class:`.workload.Setup`.
        eager: Whether attention keeps its probabilities.
        shared: Whether prompts are shared, and the vision tower runs by :mod:`.vision_tower`.
        trains_vision: Whether to measure a trained vision tower.
    """

    weight_bytes: int = 4
    amp: bool = False
    lora_rank: int = 0
    on_cpu: bool = False
    eager: bool = False
    shared: bool = False
    trains_vision: bool = False


@dataclass(frozen=True)
class ImageInputs:
    """What a vision tower gets of one image.

    Attributes:
        pixels: Shape of its ``pixel_values``.
        grid: Its grid, row by row, see :class:`.EncodedPrompt`.
        tokens: Number of its tokens.
    """

    pixels: tuple[int, ...]
    grid: tuple[tuple[int, ...], ...]
    tokens: int

    @classmethod
    def of(cls, prompt: EncodedPrompt) -> ImageInputs:
        """Those of a prompt."""
        return cls(tuple(prompt.pixel_values.shape), tuple(map(tuple, prompt.grid.tolist())),
                   int((prompt.token_types == 1).sum()))

    @property
    def numbers(self) -> int:
        """How many numbers its pixels are."""
        return torch.Size(self.pixels).numel()


def build_on_meta(config: Any) -> PreTrainedModel:
    """Build the model of a transformers config, without memory for its weights."""
    with torch.device('meta'):
        model = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    return model


class FakePolicy:
    """A policy that holds no memory.

    Args:
        model: Its model on the meta device, with an adapter if there is a ``lora_rank``; copied.
            It takes less time after :func:`share_alike`.
        arithmetic: How it computes.
    """

    def __init__(self, model: PreTrainedModel, arithmetic: Arithmetic) -> None:
        self.arithmetic = arithmetic
        self.model: Any = copy.deepcopy(model)
        self.family = family_of(self.model)
        for parameter in self.model.parameters():
            if not (arithmetic.lora_rank and parameter.requires_grad):
                parameter.data = parameter.data.to(_DTYPES[arithmetic.weight_bytes])
        plain = 'eager' if arithmetic.eager else 'sdpa'
        self.model.set_attn_implementation({
            'text_config': shared_prefix.NAME if arithmetic.shared else plain,
            'vision_config': plain})
        if experts_of(self.model):
            self.model.set_experts_implementation(_ONE_BY_ONE if arithmetic.on_cpu else _GROUPED)
        if arithmetic.shared:
            vision_tower.speed_up(self.tower)
            share_states(self.language)
        for parameter in self.family.vision_parameters(self.model):
            parameter.requires_grad_(arithmetic.trains_vision)
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.model._apply(self._fake)
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_drop_gradient)
        self.model.train()

    @property
    def language(self) -> Any:
        """Its language model."""
        return self.family.language(self.model)

    @property
    def tower(self) -> Any:
        """Its vision tower."""
        return self.family.tower(self.model)

    @property
    def tensors(self) -> list[Tensor]:
        """Its weights and buffers."""
        return [*self.model.parameters(), *self.model.buffers()]

    def _fake(self, tensor: Tensor) -> Tensor:
        return FakeTensor(self._mode, tensor.to('meta'), CPU)

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A fake tensor, of the weights' dtype unless told otherwise."""
        dtype = dtype or _DTYPES[self.arithmetic.weight_bytes]
        return self._fake(torch.empty(shape, dtype=dtype, device='meta'))

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        # In a pass within another context of autocast, copies made without gradients would stay.
        torch.clear_autocast_cache()
        return torch.autocast('cpu', torch.bfloat16) if self.arithmetic.amp else nullcontext()

    def read(self, states: Tensor, **arguments: Any) -> Any:
        """Run the language model over the states (1, L, D) of its input."""
        with self.autocast():
            return self.language(
                inputs_embeds=states, use_cache=arguments.pop('use_cache', False),
                position_ids=self.family.text_positions(states.shape[1], CPU), **arguments)

    def see(self, image: ImageInputs) -> list[Tensor]:
        """Run the vision tower over one image, and return its features."""
        empty = torch.empty(0, dtype=torch.long)
        prompt = EncodedPrompt(empty, empty, self.empty(*image.pixels, dtype=torch.float32),
                               torch.tensor(image.grid))
        with self.autocast():
            return tensors_in(list(self.family.encode_images(self.model, [prompt])))


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


@dataclass
class Call:
    """How a layer was called.

    Attributes:
        kind: Number of the first call of the same layer with arguments of the same shapes. Only of
            that one, there is the rest.
        states: Makes states like those that it got.
        args, kwargs: Its other arguments.
        counted: What a counter said after it.
        in_tuple: Whether its output is a tuple of states and others.
    """

    kind: int
    states: Callable[[], Tensor] | None = None
    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    counted: Any = None
    in_tuple: bool = False


@contextmanager
def each_kind_once(policy: FakePolicy, layers: Any,
                   count: Callable[[], Any] = lambda: None) -> Iterator[list[Call]]:
    """A context in which a layer runs only at its first call with arguments of the same shapes;
    others return fake tensors like those of the first. It yields the list of calls, which grows.

    Args:
        policy: The policy.
        layers: Its layers or blocks, of which those that are alike are the same.
        count: Called before and after a layer that runs.
    """
    calls: list[Call] = []
    first: dict[Any, int] = {}
    makers: dict[int, Callable[[], Any]] = {}

    def wrap(layer: Any) -> Callable[..., Any]:
        forward = layer.forward

        def call(states: Tensor, *args: Any, **kwargs: Any) -> Any:
            shapes = tuple(x.shape for x in tensors_in((states, args, kwargs)))
            kind = first.setdefault((layer, shapes), len(calls))
            if kind in makers:
                calls.append(Call(kind))
                return makers[kind]()
            count()
            output = forward(states, *args, **kwargs)
            calls.append(Call(kind, _maker(policy, states), args, kwargs, count(),
                              isinstance(output, tuple)))
            makers[kind] = _maker(policy, output)
            return output

        return call

    with _replaced(layers, wrap):
        yield calls


@contextmanager
def skipped(layers: Any, calls: Sequence[Call]) -> Iterator[None]:
    """A context in which layers return their states as they are; ``calls`` tells in what form."""
    def call(states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (states, ) if calls[0].in_tuple else states

    with _replaced(layers, lambda layer: call):
        yield


@contextmanager
def _replaced(layers: Any, wrap: Callable[[Any], Callable[..., Any]]) -> Iterator[None]:
    """A context in which layers have another ``forward``, which gets their states first."""
    def ordered(forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, hidden_states: Any = None, **kwargs: Any) -> Any:
            return forward(*args, **kwargs) if args else forward(hidden_states, **kwargs)

        return call

    once = dict.fromkeys(layers)
    for layer in once:
        layer.forward = ordered(wrap(layer))
    try:
        yield
    finally:
        for layer in once:
            del layer.forward


def _maker(policy: FakePolicy, output: Any) -> Callable[[], Any]:
    """What makes tensors like those of a layer's output, without holding it."""
    if isinstance(output, Tensor):
        return partial(policy.empty, *output.shape, dtype=output.dtype)
    if isinstance(output, tuple):
        parts = [_maker(policy, part) for part in output]
        return lambda: tuple(part() for part in parts)
    return lambda: None


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dictionaries."""
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def share_alike(model: PreTrainedModel) -> None:
    """Let all layers of a model, and all blocks of its vision tower, be the first one of the same
    class, with weights of the same shapes, and the same name in ``layer_types``."""
    family = family_of(model)
    language = family.language(model)
    _share(language.layers, getattr(language.config, 'layer_types', None))
    _share(family.blocks(model))


def _share(layers: Any, names: Sequence[str] | None = None) -> None:
    first: dict[Any, nn.Module] = {}
    for number, layer in enumerate(layers):
        weights = tuple((name, p.shape, p.dtype, p.requires_grad)
                        for name, p in layer.named_parameters())
        name = names[number] if names else None
        layers[number] = first.setdefault((type(layer), name, weights), layer)


def _one_by_one(experts: Any, states: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """One expert after the other, each with as many tokens; few of them, to be fast."""
    cells = torch.arange(index.numel()) * min(experts.num_experts, 16) // index.numel()
    even = cells.reshape(index.shape[::-1]).T
    return type(experts).forward.__wrapped__(experts, states, even, weights)


def _grouped(experts: Any, states: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """As transformers' grouped products, with the weights of one expert for all tokens: what is
    kept and computed is the same. (Products of fake tensors cannot be grouped in float32.)"""
    def product(tokens: Tensor, name: str) -> Tensor:
        matrix = getattr(experts, name)[0].to(tokens.dtype)
        with torch.autocast('cpu', enabled=False):
            tokens = tokens @ (matrix if experts.is_transposed else matrix.T)
        return tokens + getattr(experts, f'{name}_bias')[index.flatten()] if (
            experts.has_bias) else tokens

    order = index.flatten().sort().indices
    shares, tokens = weights.flatten()[order], states[order // index.shape[1]]
    if experts.has_gate:
        tokens = experts._apply_gate(product(tokens, 'gate_up_proj'))
    else:
        tokens = experts.act_fn(product(tokens, 'up_proj'))
    tokens = product(tokens, 'down_proj') * shares[:, None]
    return tokens[order.argsort()].unflatten(0, index.shape).sum(dim=1).to(states.dtype)


_ONE_BY_ONE, _GROUPED = 'mmdpad_estimated_one_by_one', 'mmdpad_estimated_grouped'
ALL_EXPERTS_FUNCTIONS.register(_ONE_BY_ONE, _one_by_one)
ALL_EXPERTS_FUNCTIONS.register(_GROUPED, _grouped)
