# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Linear layers that share an input, as one product for the few rows of a decoding step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .packed_linear import packed_product, should_pack


class MergedLinear:
    """The outputs of linear layers with one input, side by side.

    How depends on the layers:

    - On a GPU, if the arithmetic has the weights' dtype, the weights become views of one tensor, in
      place, and stay so. This takes no memory, and optimizers and checkpoints do not notice. Their
      adapters (LoRA) are two further products, one for all A and one for all B.
    - Under autocast, the weights are copied once in its dtype, as autocast itself would do.
      Adapters as above.
    - On a CPU in float32 or float64, the weights are copied (large ones in oneDNN's own layout),
      with their adapters added: rounding is as small as that of the products.
    - Anything else (quantized layers, 16-bit weights on a CPU, other kinds of adapters or of
      layers) is called, one after the other, under the autocast of the constructor's caller.

    Args:
        layers: Layers from (N, D) to (N, E_i).
        dtype: The dtype of the arithmetic.

    Attributes:
        way: 'views', 'copies' or 'calls', as above.
    """

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> None:
        self.layers = list(layers)
        self.dtype = dtype
        parts = [_Part.of(layer) for layer in layers]
        known = [part for part in parts if part is not None]
        self.way = _choose_way(known if len(known) == len(parts) else [], dtype)
        self.down: Tensor | None = None
        if self.way == 'calls':
            kind = next((p.device.type for layer in layers for p in layer.parameters()), 'cpu')
            self.autocast: dict[str, Any] = dict(
                device_type=kind, enabled=torch.is_autocast_enabled(kind),
                dtype=torch.get_autocast_dtype(kind))
            return
        adds = self.way == 'copies' and _is_wide(dtype)
        if self.way == 'views':
            weight = _as_one([part.weight for part in known])
        else:
            copies = [(part.with_adapters() if adds else part.weight.detach()).to(dtype)
                      for part in known]
            weight = copies[0] if len(copies) == 1 else torch.cat(copies)
        self.bias = _joined_bias(known, weight)
        if any(part.adapters for part in known) and not adds:
            self.down, self.up = _joined_adapters(known, weight)
        self.product: Callable[[Tensor], Tensor] | None = None
        if self.way == 'copies' and should_pack(weight):
            self.product = packed_product(weight, self.bias)
        else:
            self.weight = weight.t()

    def __call__(self, rows: Tensor, residual: Tensor | None = None) -> Tensor:
        """(N, D) -> (N, E), E the sum of all E_i; plus ``residual`` (N, E), if given."""
        if self.way == 'calls':
            with torch.autocast(**self.autocast):
                output = torch.cat([layer(rows) for layer in self.layers], dim=-1)
        else:
            rows = rows.to(self.dtype)
            if self.product is not None:
                output = self.product(rows)
            elif self.bias is not None:
                output = torch.addmm(self.bias, rows, self.weight)
            elif residual is not None and residual.dtype == self.dtype:
                output, residual = torch.addmm(residual, rows, self.weight), None
            else:
                output = torch.mm(rows, self.weight)
            if self.down is not None:
                output = torch.addmm(output, torch.mm(rows, self.down), self.up)
        return output if residual is None else residual + output


class _Part:
    """A linear layer: weight (E, D), bias (E,) or None, and pairs of matrices (r, D), (E, r) whose
    product its adapters add."""

    def __init__(self, layer: Any, adapters: Sequence[tuple[Tensor, Tensor]] = ()) -> None:
        self.weight: nn.Parameter = layer.weight
        self.bias: nn.Parameter | None = layer.bias
        self.adapters = list(adapters)

    @classmethod
    def of(cls, layer: Any) -> _Part | None:
        """The parts of a layer; None if it is of another kind."""
        base = getattr(layer, 'base_layer', layer)
        if type(base) is not nn.Linear or is_hooked(base) or is_hooked(layer):
            return None
        if base is layer:
            return cls(base)
        from peft.tuners.lora import Linear
        if type(layer) is not Linear or layer.fan_in_fan_out:
            return None
        layer = cast(Any, layer)
        if layer.disable_adapters or layer.merged:
            return cls(base)
        names = [name for name in layer.active_adapters if name in layer.lora_A]
        if any(name in layer.lora_variant or layer.lora_bias[name] for name in names):
            return None
        return cls(base, [(layer.lora_A[name].weight,
                           layer.lora_B[name].weight * layer.scaling[name]) for name in names])

    def with_adapters(self) -> Tensor:
        weight: Tensor = self.weight
        for down, up in self.adapters:
            weight = weight + up.to(weight.dtype) @ down.to(weight.dtype)
        return weight


def is_hooked(module: nn.Module) -> bool:
    """Whether something changes or watches the module's forward pass."""
    return bool(module._forward_hooks or module._forward_pre_hooks or 'forward' in vars(module))


def _is_wide(dtype: torch.dtype) -> bool:
    return torch.finfo(dtype).bits >= 32


def _choose_way(parts: Sequence[_Part], dtype: torch.dtype) -> str:
    """See :class:`MergedLinear`; no parts means that some layers are of another kind."""
    if not parts:
        return 'calls'
    on_cpu = parts[0].weight.device.type == 'cpu'
    if all(part.weight.dtype == dtype for part in parts):
        if not on_cpu:
            return 'views'
        return 'copies' if _is_wide(dtype) else 'calls'
    return 'copies' if torch.is_autocast_enabled(parts[0].weight.device.type) else 'calls'


def _as_one(weights: Sequence[nn.Parameter]) -> Tensor:
    """Return one tensor (E, D) of which weights (E_i, D) are views; make them so if they are not
    yet."""
    first, place = weights[0], weights[0].storage_offset()
    storage, joined = first.untyped_storage()._cdata, True
    for weight in weights:
        joined = bool(joined and weight.is_contiguous() and weight.storage_offset() == place
                      and weight.untyped_storage()._cdata == storage)
        place += weight.numel()
    if joined:
        rows = sum(len(weight) for weight in weights)
        return first.detach().as_strided((rows, first.shape[1]), (first.shape[1], 1))
    whole = torch.cat([weight.data for weight in weights])
    for weight, part in zip(weights, whole.split([len(w) for w in weights]), strict=True):
        weight.data = part
    return whole


def _joined_bias(parts: Sequence[_Part], weight: Tensor) -> Tensor | None:
    if all(part.bias is None for part in parts):
        return None
    return torch.cat([weight.new_zeros(len(part.weight)) if part.bias is None else
                      part.bias.to(weight.dtype) for part in parts])


def _joined_adapters(parts: Sequence[_Part], weight: Tensor) -> tuple[Tensor, Tensor]:
    """The matrices (D, R) and (R, E) of all adapters, R the sum of their ranks."""
    downs, ups, row = [], [], 0
    for part in parts:
        for down, up in part.adapters:
            downs.append(down)
            ups.append(pad(up.t(), (row, len(weight) - row - len(up))))
        row += len(part.weight)
    return (torch.cat(downs).to(weight.dtype).t(), torch.cat(ups).to(weight.dtype))
