# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Counts the bytes and the operations of a computation, real or of fake tensors."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten
# With the position of query and key among their arguments: the first two.
_ATTENTION = frozenset({
    _aten._scaled_dot_product_flash_attention_for_cpu,
    _aten._scaled_dot_product_flash_attention, _aten._scaled_dot_product_efficient_attention,
    _aten._scaled_dot_product_cudnn_attention})


class StorageTracker(TorchDispatchMode):
    """Bytes of the tensor storages that are alive: now, and at the peak.

    Args:
        present: Tensors that were there before, which do not count.
        weights: Those of them whose copies in another dtype do not count, either.
    """

    def __init__(self, present: Iterable[Any] = (), weights: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._weights = {x.untyped_storage()._cdata for x in weights}
        self._known = {x.untyped_storage()._cdata for x in tree_leaves([*present])
                       if isinstance(x, Tensor)} | self._weights

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not (function is _aten._to_copy.default
                and args[0].untyped_storage()._cdata in self._weights):
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor):
                    self._add(tensor.untyped_storage())
            self.peak = max(self.peak, self.now)
        return result

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known and size:
            self._known.add(key)
            self.now += size
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class OperationCounter(TorchDispatchMode):
    """Operations of matrix products and of attention, 2 per multiply-add.

    Attributes:
        products: Those of matrix products and convolutions.
        attention: Those of attention, hidden pairs included.
        width: Width of all queries of the last attention; 0 if there was none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products = self.attention = self.width = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        packet = function._overloadpacket
        if packet in _ATTENTION:
            query, key = args[:2]
            self.width = query.shape[1] * query.shape[3]
            self.attention += 4 * query.numel() * key.shape[2]
        elif packet in flop_registry:
            self.products += flop_registry[packet](*args, **(kwargs or {}), out_val=result)
        return result
