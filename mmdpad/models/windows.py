# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Attention within windows of a sequence, without padding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class Windows:
    """Tokens that attend to each other within windows. Windows of one length attend in one call.

    Args:
        lengths: Tokens of each window, in their order.
        device: Device of the queries, keys and values.

    Attributes:
        groups: Length -> number of windows, the shortest first.
        order: (L,) long, where the tokens of the groups are, group by group; None if the groups
            already follow each other.
        back: (L,) long, the inverse of ``order``, or None.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.groups = Counter(sorted(lengths))
        self.order: Tensor | None = None
        self.back: Tensor | None = None
        if list(lengths) != sorted(lengths):
            windows = torch.arange(sum(lengths)).split(list(lengths))
            order = torch.cat(sorted(windows, key=len))
            self.order, self.back = order.to(device), order.argsort().to(device)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None = None,
               causal: bool = False) -> Tensor:
        """Map (L, H, d) each to (L, H, d).

        Args:
            query, key, value: Of all tokens.
            scale: Factor of the scores; 1 / sqrt(d) by default.
            causal: Whether a token attends only to itself and to earlier ones of its window.
        """
        sizes = [length * count for length, count in self.groups.items()]
        parts = [(x if self.order is None else x.index_select(0, self.order)).split(sizes)
                 for x in (query, key, value)]
        outputs = []
        for length, *part in zip(self.groups, *parts, strict=True):
            q, k, v = (x.unflatten(0, (-1, length)).transpose(1, 2) for x in part)
            output = scaled_dot_product_attention(q, k, v, scale=scale, is_causal=causal)
            outputs.append(output.transpose(1, 2).flatten(0, 1))
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return output if self.back is None else output.index_select(0, self.back)
