# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The states of recurrent layers during decoding: of each prompt first, then of each sample.

Notation: B prompts, A active samples, N tokens in a forward pass, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmdpad.models.heads.recurrent_layers import Mixer, RecurrentState

NO_GUESSES = ('Decoding guesses no tokens: the recurrent state of some layers cannot be taken back '
              'after a wrong guess')
"""What the log says of a policy with such layers."""


class RecurrentStates:
    """The states of a policy's recurrent layers, for a :class:`.PrefixCache`. A policy may have no
    such layers."""

    def __init__(self) -> None:
        self._layers: dict[int, RecurrentState] = {}

    def put_prompts(self, layer: int, after: RecurrentState) -> None:
        """Store a layer's state after further prompts."""
        before = self._layers.get(layer)
        if before is not None:
            after = RecurrentState(*map(torch.cat, zip(before.tensors(), after.tensors(),
                                                       strict=True)))
        self._layers[layer] = after

    def start_samples(self, group_size: int) -> None:
        """Start ``group_size`` samples from the state of each prompt."""
        self._layers = {layer: state.repeat(group_size) for layer, state in self._layers.items()}

    def keep(self, samples: Tensor) -> None:
        """Continue only the samples with indices (A',)."""
        self._layers = {layer: RecurrentState(*(own.index_select(0, samples)
                                                for own in state.tensors()))
                        for layer, state in self._layers.items()}

    def replace(self, rows: Sequence[int], new: RecurrentStates, group_size: int,
                total: int) -> None:
        """Let samples of other prompts take the rows of samples that have ended.

        Args:
            rows: Their rows, prompt after prompt.
            new: The states of the other prompts.
            group_size: Number of samples of each of them.
            total: Number of samples from now on.
        """
        for layer, state in self._layers.items():
            index = torch.tensor(rows, device=state.tensors()[0].device)
            others = new._layers[layer].repeat(group_size).tensors()
            self._layers[layer] = RecurrentState(*(
                pad(own, [0, 0] * (own.ndim - 1) + [0, total - len(own)]).index_copy(0, index, more)
                for own, more in zip(state.tensors(), others, strict=True)))

    def run(self, mixer: Mixer, tokens: Tensor, layer: int, rows: Tensor | None) -> Tensor:
        """Run a layer over one token (N, 1, D) each of the samples in rows (N,), or of all samples
        with None; return its output (N, 1, D)."""
        state = self._layers[layer]
        if rows is None:
            return mixer(tokens, state)
        chosen = RecurrentState(*(own.index_select(0, rows) for own in state.tensors()))
        output = mixer(tokens, chosen)
        self._layers[layer] = RecurrentState(*(
            own.index_copy(0, rows, more)
            for own, more in zip(state.tensors(), chosen.tensors(), strict=True)))
        return output
