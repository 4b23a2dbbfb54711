# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Copies of a policy's weights that are made once, while nobody trains it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from mmdpad.models.heads.adapter_reach import adapted_layers

_VALUES = 16  # of each weight, which a step of an optimizer or other weights would change


class KeptWeights:
    """Keeps what was made of a model's weights until one of them changes.

    Of weights that require gradients, nothing is kept: copies would take memory during updates.
    """

    def __init__(self) -> None:
        self._state: Hashable = None
        self._values: Tensor
        self._parameters: list[nn.Parameter] = []
        self._made: Any = None

    def get(self, model: nn.Module, make: Callable[[], Any], *key: Hashable) -> Any:
        """Return ``make()``, or its last result if it is kept and still valid.

        Args:
            model: The model whose weights and adapters ``make`` uses.
            make: Makes something of them.
            *key: What else the result depends on; autocast is counted, too.
        """
        if any(parameter.requires_grad for parameter in model.parameters()):
            self._state = self._made = None
            self._parameters = []
            return make()
        if (self._made is None or self._state != (*key, *_state_of(model))
                or not self._values.equal(_values_of(model))):
            self._made = None  # before the next copies are made
            self._made = make()
            # Which may have moved the weights.
            self._state, self._parameters = (*key, *_state_of(model)), list(model.parameters())
            self._values = _values_of(model)
        return self._made


def _state_of(model: nn.Module) -> tuple[Hashable, ...]:
    kind = next(model.parameters()).device.type
    return (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind),
            *((id(p), p.data_ptr(), p.dtype, p._version) for p in model.parameters()),
            # What an adapter's layers add to their results, besides their weights.
            *((layer.disable_adapters, *layer.active_adapters, *layer.merged_adapters,
               *layer.scaling.items()) for layer in adapted_layers(model).values()))


def _values_of(model: nn.Module) -> Tensor:
    """A few values of each weight: fused optimizers and changes of ``data`` raise no version."""
    return torch.cat([p.detach().flatten()[::max(p.numel() // _VALUES, 1)].double()
                      for p in model.parameters()])
