# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Layers with a recurrent state in a row of shared prompts: gated DeltaNet, and LFM2's gated short
convolution.

Such a layer reads its input one token after the other. Its state after a prompt (the last inputs of
a short causal convolution, and in gated DeltaNet that of the recurrence) is computed once, and all
responses start from it. Gradients of the state are the sum over the responses. The layers are
transformers' own: they get the state where they expect a cache.

Notation: B prompts, G responses to each, N = B * G, L tokens of a row, D hidden size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.models.lfm2.modeling_lfm2 import Lfm2DecoderLayer
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeGatedDeltaNet

from .packed_attention import PackedGroup, Spans, response_spans, row_starts

Mixer = Callable[..., Tensor]
"""A layer of transformers: maps states (N, L, D), a :class:`RecurrentState` and perhaps an
``attention_mask`` to (N, L, D), and updates the state. The state is passed by position, since the
argument's name changed in transformers 5.24, and layers ignore unknown names."""


class RecurrentState:
    """The state of a layer after N sequences, with the methods of transformers' caches that such
    layers call. Gradients flow through it.

    Attributes:
        conv: (N, C, K) the last inputs of the convolution; None before the first token.
        recurrent: (N, H, d, e); None before the first token, and in a layer without recurrence.
    """

    def __init__(self, conv: Tensor | None = None, recurrent: Tensor | None = None) -> None:
        self.conv = conv
        self.recurrent = recurrent

    def tensors(self) -> tuple[Tensor, ...]:
        """The parts that the layer has, after the first token."""
        assert self.conv is not None
        return (self.conv, ) if self.recurrent is None else (self.conv, self.recurrent)

    def repeat(self, group_size: int) -> RecurrentState:
        """The states of N sequences, each ``group_size`` times."""
        return RecurrentState(*(
            state[:, None].expand(-1, group_size, *state.shape[1:]).flatten(0, 1)
            for state in self.tensors()))

    def has_previous_state(self, layer_idx: int, state_idx: int = 0) -> bool:
        """Whether there were tokens before; of transformers before 5.22, as is :attr:`layers`."""
        return self.conv is not None

    @property
    def layers(self) -> Mapping[int, Any]:
        """The state under the number of any layer."""
        state = SimpleNamespace(record_past=True, conv_states=[self.conv],
                                recurrent_states=[self.recurrent])
        return defaultdict(lambda: state)

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """The convolution's part, see :class:`transformers.Cache`; so are the other methods."""
        return self.conv

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """The recurrence's part."""
        return self.recurrent

    def is_recording_past(self, layer_idx: int) -> bool:
        """True, so that a layer changes no state in place."""
        return True

    def update_conv_state(self, conv_states: Tensor, layer_idx: int, state_idx: int = 0, *,
                          conv_kernel_size: int) -> Tensor:
        """Append inputs (N, C, L), and return them after those before."""
        if self.conv is not None:
            conv_states = torch.cat([self.conv, conv_states], dim=-1)
        self.conv = pad(conv_states, (conv_kernel_size, 0))[..., -conv_kernel_size:]
        return conv_states

    def update_recurrent_state(self, recurrent_states: Tensor, layer_idx: int,
                               state_idx: int = 0) -> Tensor:
        """Replace the recurrence's part."""
        self.recurrent = recurrent_states
        return recurrent_states


class PackedRecurrence:
    """Runs a recurrent layer over a row of groups with the same number of responses each: over all
    prompts, then over all responses, each from the state after its prompt.

    Prompts are padded on the left, where a zero state stays zero, and responses on the right, where
    it does not matter.

    Args:
        groups: The groups of the row.
        device: Device of the row.
    """

    def __init__(self, groups: Sequence[PackedGroup], device: torch.device) -> None:
        starts = row_starts(groups)
        self.prompts = Spans(starts, [group.prompt for group in groups], device, pads_left=True)
        self.responses = response_spans(groups, starts, device)
        tokens = torch.arange(sum(map(len, groups)), device=device)
        spans = (self.prompts, self.responses)
        self.order = torch.cat([tokens[span.places] for span in spans]).argsort()
        self.mask = None if bool(self.prompts.filled.all()) else self.prompts.filled

    def __call__(self, mixer: Mixer, row: Tensor) -> tuple[Tensor, RecurrentState]:
        """Map the states (L, D) of a row to (L, D) and the layer's state after its B prompts."""
        after = RecurrentState()
        output = mixer(self.prompts.grid(row), after, attention_mask=self.mask)
        outputs = [self.prompts.flat(output)]
        if self.responses.count:
            group_size = self.responses.shape[0] // self.prompts.shape[0]
            own = self.responses.grid(row)
            if own.shape[1] == 1:
                # Layers would take one token for a step of decoding, whose kernels on a GPU may
                # have no gradients.
                own = pad(own, (0, 0, 0, 1))
            output = mixer(own, after.repeat(group_size))[:, :self.responses.shape[1]]
            outputs.append(self.responses.flat(output))
        return torch.cat(outputs).index_select(0, self.order), after


class _Shared(nn.Module):
    """A recurrent layer that runs as a :class:`.shared_prefix.Layout` demands, if there is one."""

    layer_idx: int

    def forward(self, hidden_states: Tensor, *args: Any, layout: Any = None,
                **kwargs: Any) -> Tensor:
        """(N, L, D) -> (N, L, D)."""
        if layout is None:
            return super().forward(hidden_states, *args, **kwargs)
        return layout.recur(super().forward, hidden_states, self.layer_idx)


class SharedQwen3_5DeltaNet(_Shared, Qwen3_5GatedDeltaNet):
    """That of Qwen3.5."""


class SharedQwen3_5MoeDeltaNet(_Shared, Qwen3_5MoeGatedDeltaNet):
    """That of Qwen3.5-MoE."""


class SharedLfm2Layer(Lfm2DecoderLayer):
    """A decoder layer of LFM2 with a gated short convolution, to which it does not pass on the
    layout before transformers 5.22."""

    def forward(self, hidden_states: Tensor, *args: Any, layout: Any = None,
                **kwargs: Any) -> Tensor:
        """(N, L, D) -> (N, L, D)."""
        if layout is None:
            return super().forward(hidden_states, *args, **kwargs)
        states = hidden_states + layout.recur(self.conv, self.operator_norm(hidden_states),
                                              self.conv.layer_idx)
        return states + self.feed_forward(self.ffn_norm(states))


_CLASSES: dict[str, dict[type[nn.Module], type[nn.Module]]] = dict(
    linear_attention={Qwen3_5GatedDeltaNet: SharedQwen3_5DeltaNet,
                      Qwen3_5MoeGatedDeltaNet: SharedQwen3_5MoeDeltaNet},
    conv={Lfm2DecoderLayer: SharedLfm2Layer})
"""By kind of layer (``layer_types``), the class that each one of transformers becomes."""


def share_states(language: Any) -> None:
    """Let the recurrent layers of a language model follow the ``layout`` of a pass. Weights and
    their names stay as they are.

    Raises:
        ValueError: A layer of a recurrent kind is of an unknown class, which would mix the prompts
            and responses of a row.
    """
    kinds = getattr(language.config, 'layer_types', None) or ()
    for kind, layer in zip(kinds, language.layers, strict=False):
        classes = _CLASSES.get(kind, {})
        for module in layer.modules():
            if type(module) in classes:
                module.__class__ = classes[type(module)]
        if classes and not has_recurrence(layer):
            raise ValueError(
                f"`attn_implementation='shared_prefix'` should have layers of {kind} of "
                f'{", ".join(known.__name__ for known in classes)}, but got '
                f"{type(layer).__name__} without one; set `attn_implementation='sdpa'` and "
                f"`rollout_engine=dict(type='HFRollout')`")


def has_recurrence(model: nn.Module) -> bool:
    """Whether a model has layers changed by :func:`share_states`."""
    shared = {kind for classes in _CLASSES.values() for kind in classes.values()}
    return any(type(module) in shared for module in model.modules())
