# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A decoding step: a few more tokens of each sample through the language model.

A GPU needs longer to launch an operation on so few tokens than to execute it, so a step should have
few of them. Notation: N tokens, H query heads and K key-value heads of d channels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import rms_norm
from transformers import PreTrainedModel

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.experts import experts_of
from mmdpad.models.heads.families import family_of
from mmdpad.models.weights import first_line

from .agreement import most_rounding
from .graphs import CapturedSteps
from .merged_linear import MergedLinear, is_hooked
from .packed_linear import packed_linears
from .prefix_cache import Feed, FeedLayout, PrefixCache

LAYERS = ('Qwen2DecoderLayer', 'Qwen2VLDecoderLayer', 'Qwen2_5_VLDecoderLayer', 'Qwen3DecoderLayer',
          'Qwen3VLTextDecoderLayer', 'Qwen3VLMoeTextDecoderLayer')
"""Decoder layers of transformers that :class:`FusedLayers` computes itself."""
SHRINK_AT = 0.75
"""Finished samples leave when at most this share of the batch is active."""
SHRINK_GRAPHS_AT = 0.5
"""The same with CUDA graphs, which have to be captured again."""


class Decoding:
    """Runs the decoding steps of an engine's rollouts, in as few operations as the policy allows.

    Known layers (:func:`why_not_fused`) are computed by :class:`FusedLayers`, on a GPU as CUDA
    graphs; others by the model. The first step is computed both ways: if they differ by more than
    rounding, the model's own layers are used from then on. The log says once what is not possible,
    and why.

    Args:
        cuda_graphs: Whether to capture steps on a GPU.

    Attributes:
        shrink_at: Finished samples should leave the batch when at most this share is active.
        compared: Whether a step was computed both ways.
    """

    def __init__(self, cuda_graphs: bool = True) -> None:
        self.cuda_graphs = cuda_graphs
        self.shrink_at = SHRINK_AT
        self.compared = False
        self._distrust: str | None = None
        self._told: set[str] = set()
        self._head: VLMReasoningHead
        self._layers: PreTrainedModel | FusedLayers
        self._run: Callable[..., Tensor]

    @property
    def full_grids(self) -> bool:
        """Whether a step should have equally many tokens of each sample, a power of two: as few
        shapes as possible, since each one is captured."""
        return isinstance(self._run, CapturedSteps)

    @contextmanager
    def of(self, head: VLMReasoningHead) -> Iterator[Decoding]:
        """Within the block, this decodes with the current weights of a policy, which should not
        change. A block within another one (a rollout between two results of a stream) leaves the
        outer one as it was."""
        names = ('_head', '_layers', '_run', 'shrink_at')
        outer = {name: vars(self).pop(name) for name in names if name in vars(self)}
        self._head, model = head, head.model
        why = self._distrust or why_not_fused(model)
        try:
            if why is not None:
                self.tell(f"Decoding calls the model's own layers, one after the other: {why}")
                with packed_linears(head.family.language(model), model.lm_head):
                    self._use(model)
                    yield self
            else:
                layers = FusedLayers(model)
                with packed_linears(*layers.called):
                    self._use(layers)
                    yield self
        finally:
            for name in names:
                vars(self).pop(name, None)
            vars(self).update(outer)

    def __call__(self, cache: PrefixCache, feed: Feed, starts: Tensor,
                 rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Run a step, see :func:`decode_step`. The next step may overwrite the logits."""
        if not self.compared and isinstance(self._layers, FusedLayers):
            self._compare(cache, feed, starts, rotary)
        try:
            return self._run(cache, feed, starts, rotary)
        except RuntimeError as error:
            if not isinstance(self._run, CapturedSteps) or isinstance(
                    error, torch.OutOfMemoryError):
                raise
            self._forgo_graphs(f'a step cannot be captured ({first_line(error)})')
            self.cuda_graphs = False
            return self._run(cache, feed, starts, rotary)

    def _use(self, layers: PreTrainedModel | FusedLayers) -> None:
        self._layers = layers
        self._run = step = partial(decode_step, layers)
        self.shrink_at = SHRINK_AT
        if self._head.device.type != 'cuda' or not self.cuda_graphs:
            return
        if not isinstance(layers, FusedLayers):
            self._forgo_graphs("the model's own layers are called")
        elif 'calls' in layers.ways:
            self._forgo_graphs('some layers are quantized, experts or of another kind')
        else:
            self._run, self.shrink_at = CapturedSteps(step), SHRINK_GRAPHS_AT

    def _forgo_graphs(self, why: str) -> None:
        self._run, self.shrink_at = partial(decode_step, self._layers), SHRINK_AT
        self.tell(f'Decoding does not use CUDA graphs, and waits for the CPU: {why}')

    def _compare(self, cache: PrefixCache, feed: Feed, starts: Tensor,
                 rotary: tuple[Tensor, Tensor]) -> None:
        """Compare a step with the model's own. It writes the same keys and values."""
        expected, found = (
            decode_step(layers, cache, feed, starts, rotary).float().log_softmax(dim=-1)
            for layers in (self._head.model, self._layers))
        if expected.isnan().any():
            return  # the rollout says so; the next one compares
        self.compared = True
        # Equal: an output head may rule tokens out by -inf.
        gaps = (found - expected).abs().masked_fill(found == expected, 0)
        distance, bound = float(gaps.mean()), most_rounding(self._head)
        if not distance < bound:
            self._distrust = (
                f'computed together, their log-probabilities are off by {distance:.2g} nats on '
                f'average, more than rounding explains ({bound:g}); please report this with the '
                f'version of transformers')
            self.tell(f"Decoding calls the model's own layers, one after the other: "
                       f'{self._distrust}')
            self._use(self._head.model)

    def tell(self, text: str) -> None:
        """Write a warning to the log, once."""
        if text not in self._told:
            self._told.add(text)
            print_log(text, logger='current', level=logging.WARNING)


def decode_step(model: PreTrainedModel | FusedLayers, cache: PrefixCache, feed: Feed,
                starts: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Run the next tokens of each sample through the model.

    Args:
        model: A policy's model, whose own layers are called, or what
            computes them.
        cache: The cache, with room for the tokens.
        feed: N tokens of A samples.
        starts: (A,) long, the positions of the samples' first tokens.
        rotary: See :func:`rotary_table`.

    Returns:
        (N, V) logits.
    """
    layout = cache.open(feed)
    positions = feed.spread(starts) + layout.slots
    cos, sin = (table.index_select(0, positions)[:, None] for table in rotary)
    if isinstance(model, FusedLayers):
        return model(feed.tokens, layout, cos, sin)
    family = family_of(model)
    language = family.language(model)
    states = _embed(language, feed.tokens)[:, None]
    for layer in language.layers:
        states = layer(states, position_embeddings=(cos, sin), attention_mask=None, layout=layout)
    return model.lm_head(family.norm(model)(states[:, 0]))


class FusedLayers:
    """Computes a model's known layers in less than half of their operations: queries, keys and
    values are one product, and so are the two halves of the MLP's input (:class:`.MergedLinear`);
    rotary embeddings turn queries and keys together. Experts are computed by the model.

    The weights should not change while it is used.

    Args:
        model: A policy's model, for which :func:`why_not_fused` is None.

    Attributes:
        ways: The ways (see :class:`.MergedLinear`) of all products.
        called: The modules that are called one after the other.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.language: Any = family_of(model).language(model)
        kind = self.language.device.type
        self.dtype = (torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else
                      self.language.dtype)
        # What autocast has copied during the prefill would take as much memory as our own copies.
        torch.clear_autocast_cache()
        self.layers = [_Layer(layer, self.dtype) for layer in self.language.layers]
        self.norm = _Norm([self.language.norm])
        self.head = MergedLinear([model.lm_head], self.dtype)
        products = [self.head, *(product for layer in self.layers for product in layer.products)]
        self.ways = {product.way for product in products}
        self.called = [module for product in products if product.way == 'calls'
                       for module in product.layers]
        size = self.layers[0].size
        self.sign = torch.ones(size, dtype=self.language.dtype, device=self.language.device)
        self.sign[:size // 2] = -1

    def __call__(self, tokens: Tensor, layout: FeedLayout, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the logits (N, V) of tokens (N,) with rotary embeddings (N, 1, d)."""
        states, sin = _embed(self.language, tokens), sin * self.sign
        with torch.autocast(states.device.type, enabled=False):
            for layer in self.layers:
                states = layer(states, layout, cos, sin)
            return self.head(self.norm(states))


class _Norm:
    """The model's RMS norms, one after the other for groups of heads (N, heads, d), or one for rows
    (N, D). The model computes in float32 and rounds before it multiplies by the weight."""

    def __init__(self, norms: list[Any], heads: tuple[int, ...] = ()) -> None:
        weights = [norm.weight.detach() for norm in norms]
        self.eps = norms[0].variance_epsilon
        self.size = weights[0].shape
        self.weight = weights[0]
        if heads:
            self.weight = torch.cat([weight.expand(count, -1) for weight, count in
                                     zip(weights, heads, strict=True)])

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:
            return rms_norm(x.float(), self.size, None, self.eps).double() * self.weight
        if x.dtype == torch.float32 and self.weight.shape == self.size:
            return rms_norm(x, self.size, self.weight, self.eps)
        return rms_norm(x, self.size, None, self.eps) * self.weight


class _Layer:
    """A decoder layer."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.dtype = dtype
        self.number, self.scale = attention.layer_idx, attention.scaling
        self.size = attention.head_dim
        self.heads = [proj.out_features // self.size
                      for proj in (attention.q_proj, attention.k_proj)]
        self.before_attention = _Norm([layer.input_layernorm])
        self.before_mlp = _Norm([layer.post_attention_layernorm])
        self.head_norm = None
        if hasattr(attention, 'q_norm'):
            self.head_norm = _Norm([attention.q_norm, attention.k_norm], tuple(self.heads))
        self.products = [MergedLinear(layers, dtype) for layers in (
            [attention.q_proj, attention.k_proj, attention.v_proj], [attention.o_proj])]
        self.mlp: MergedLinear | _MLP
        if experts_of(mlp):
            self.mlp = MergedLinear([_Experts(mlp)], dtype)  # calls it
            self.products.append(self.mlp)
        else:
            self.mlp = _MLP(mlp, dtype)
            self.products += self.mlp.products

    def __call__(self, states: Tensor, layout: FeedLayout, cos: Tensor, sin: Tensor) -> Tensor:
        """(N, D) -> (N, D); ``cos`` and ``sin`` are (N, 1, d), the sine's first half negative."""
        into_heads, out_of_heads = self.products[:2]
        queries, keys = self.heads
        heads = into_heads(self.before_attention(states)).view(len(states), -1, self.size)
        turned, values = heads.split_with_sizes([queries + keys, keys], dim=1)
        if self.head_norm is not None:
            turned = self.head_norm(turned)
        turned = torch.addcmul(turned * cos, turned.roll(self.size // 2, -1), sin).to(self.dtype)
        query, key = turned.split_with_sizes([queries, keys], dim=1)
        mixed = layout.attend_rows(query, key, values, self.scale, self.number)
        states = out_of_heads(mixed, states)
        return self.mlp(self.before_mlp(states), states)


class _MLP:
    """The MLP of a layer."""

    def __init__(self, mlp: Any, dtype: torch.dtype) -> None:
        self.act = mlp.act_fn
        self.products = [MergedLinear(layers, dtype) for layers in (
            [mlp.gate_proj, mlp.up_proj], [mlp.down_proj])]

    def __call__(self, rows: Tensor, residual: Tensor) -> Tensor:
        """(N, D) and (N, D) -> (N, D)."""
        into, out = self.products
        gate, up = into(rows).chunk(2, dim=-1)
        return out(self.act(gate) * up, residual)


class _Experts(nn.Module):
    """A mixture of experts, as the model computes it, of rows."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, rows: Tensor) -> Tensor:
        """(N, D) -> (N, D)."""
        return self.block(rows[None])[0]


def why_not_fused(model: PreTrainedModel) -> str | None:
    """Say why :class:`FusedLayers` cannot compute a model's layers; None if it can."""
    language = family_of(model).language(model)
    if any(isinstance(module, FSDPModule) for module in language.modules()):
        return 'its weights are sharded'
    for layer in language.layers:
        if type(layer).__name__ not in LAYERS:
            return f'its layers are {type(layer).__name__}, not {", ".join(LAYERS)}'
        expected: dict[str, str | tuple[str, ...]] = dict(
            self_attn='Attention', mlp=('MLP', 'SparseMoeBlock'), input_layernorm='RMSNorm',
            post_attention_layernorm='RMSNorm')
        for name, suffix in expected.items():
            part = getattr(layer, name)
            if not (_is_from_transformers(part) and type(part).__name__.endswith(suffix)):
                return f'{name} of a layer is {type(part).__name__}'
        norms = [getattr(layer.self_attn, name) for name in ('q_norm', 'k_norm')
                 if hasattr(layer.self_attn, name)]
        watched = [layer, language.norm, *norms, *(getattr(layer, name) for name in expected)]
        if any(is_hooked(part) for part in watched):
            return 'a layer has a hook or another `forward`'
    return None


def _is_from_transformers(module: nn.Module) -> bool:
    return type(module).__module__.startswith('transformers.models.')


def _embed(language: Any, tokens: Tensor) -> Tensor:
    """(N,) -> (N, D), by the module, since an adapter may wrap the weight, but without the hook
    that gradient checkpointing adds to it."""
    return language.embed_tokens.forward(tokens)


def rotary_table(model: PreTrainedModel, length: int) -> tuple[Tensor, Tensor]:
    """Compute cosines and sines (length, d) of text tokens."""
    family = family_of(model)
    language = family.language(model)
    positions = family.text_positions(length, language.device)
    like = torch.empty(0, dtype=language.dtype, device=language.device)
    cos, sin = language.rotary_emb(like, positions)
    return cos[0], sin[0]
