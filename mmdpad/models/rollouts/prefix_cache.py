# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A cache of keys and values: of each prompt once, and of the samples that continue it.

Notation: B prompts of at most P tokens, A active samples, prompt-major, at most S per prompt; K
key-value heads with r query heads each, of d channels; T slots for a sample's own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from mmdpad.models.heads.shared_prefix import PackedGroup, PackedRow

BLOCK = 64
"""Number of slots by which the space for a sample's own tokens grows."""


class PrefixCache:
    """The :class:`Layout` of the next token of each sample.

    A sample's token attends to its prompt and to the sample's own tokens. All samples of a prompt,
    and the r query heads that share keys, are multiplied with the prompt's keys in one matrix
    product, so a prompt is read once per layer, however many samples it has. One softmax runs over
    both parts. Products have the model's dtype; the softmax is float32 for bfloat16.

    Between calls of :meth:`keep` and :meth:`make_room`, all shapes are constant, and a forward pass
    changes tensors only in place.

    Args:
        lengths: Number of tokens in each of B prompts.
        device: Device of the keys and values.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths = list(lengths)
        self.device = device
        # By layer: keys and values of prompts (K, B, P, d) and of samples (K, A, T, d).
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.own_keys: list[Tensor] = []
        self.own_values: list[Tensor] = []
        # 0 where a query may attend, else -inf: (1, B, 1, P), None if all are 0; and (1, 1, T).
        self.prompt_bias: Tensor | None = None
        self.own_bias = torch.empty(1, 1, 0, device=device)
        # The slot of the next token, (1,) long.
        self.place = torch.zeros(1, dtype=torch.long, device=device)
        self.used = 0

    def put_prompts(self, first: int, layer: int, keys: Sequence[Tensor],
                    values: Sequence[Tensor]) -> None:
        """Store keys and values, (K, P, d) each, of consecutive prompts, from ``first`` on."""
        for cache, parts in ((self.keys, keys), (self.values, values)):
            if layer == len(cache):
                heads, _, size = parts[0].shape
                cache.append(values[0].new_zeros(heads, len(self.lengths), max(self.lengths), size))
            for number, part in enumerate(parts, start=first):
                cache[layer][:, number, :self.lengths[number]] = part

    def start_samples(self, group_size: int) -> None:
        """Start ``group_size`` samples of each prompt, without tokens."""
        self.owners = [b for b in range(len(self.lengths)) for _ in range(group_size)]
        for prompts, own in ((self.keys, self.own_keys), (self.values, self.own_values)):
            own += [x.new_empty(x.shape[0], len(self.owners), 0, x.shape[3]) for x in prompts]
        self._arrange()

    def make_room(self) -> bool:
        """Make room for one more token per sample; return whether this allocated new tensors."""
        grows = self.used == self.own_bias.shape[-1]
        if grows:
            for own in (self.own_keys, self.own_values):
                own[:] = [pad(x, (0, 0, 0, BLOCK)) for x in own]
            self.own_bias = pad(self.own_bias, (0, BLOCK), value=-torch.inf)
        self.used += 1
        return grows

    def stay_in_place(self) -> None:
        """Tell the compiler that tensors keep their memory: a CUDA graph need not copy them."""
        for tensor in [*self.keys, *self.values, *self.own_keys, *self.own_values, self.own_bias,
                       self.place]:
            torch._dynamo.mark_static_address(tensor, guard=False)

    def keep(self, samples: Tensor) -> None:
        """Continue only the samples with indices (A',), long and ascending, and their prompts."""
        owners = [self.owners[row] for row in samples.tolist()]
        prompts = sorted(set(owners))
        for own in (self.own_keys, self.own_values):
            own[:] = [x.index_select(1, samples) for x in own]
        if len(prompts) < len(self.lengths):
            self.lengths = [self.lengths[b] for b in prompts]
            chosen = torch.tensor(prompts, device=self.device)
            for cache in (self.keys, self.values):
                cache[:] = [x[:, :, :max(self.lengths)].index_select(1, chosen) for x in cache]
        self.owners = [prompts.index(owner) for owner in owners]
        self._arrange()

    def _arrange(self) -> None:
        """Update the mask of the prompts' padding, and the grid of samples.

        ``slots`` (B * S,) holds the sample in each cell of the (B, S) grid (an arbitrary one in an
        empty cell), ``seats`` (A,) the cell of each sample; both are None if all cells are full.
        """
        longest = max(self.lengths)
        self.prompt_bias = None
        if min(self.lengths) < longest:
            lengths = torch.tensor(self.lengths, device=self.device)[:, None]
            hidden = torch.arange(longest, device=self.device) >= lengths
            self.prompt_bias = torch.zeros(hidden.shape, device=self.device).masked_fill(
                hidden, -torch.inf)[None, :, None]
        counts = [self.owners.count(b) for b in range(len(self.lengths))]
        self.slots = self.seats = None
        if min(counts) < max(counts):
            rows = torch.arange(len(self.owners)).split(counts)
            self.slots = pad_sequence(list(rows), batch_first=True)
            full = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
            self.seats = full.flatten().nonzero()[:, 0].to(self.device)
            self.slots = self.slots.flatten().to(self.device)

    def advance(self) -> None:
        """Unmask the samples' next tokens; call this before a forward pass."""
        self.own_bias.index_fill_(2, self.place, 0.0)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float,
               layer: int) -> Tensor:
        """Map (A, K * r, 1, d) and (A, K, 1, d) to (A, 1, K * r, d)."""
        keys, values = self.own_keys[layer], self.own_values[layer]
        keys.index_copy_(2, self.place, key.transpose(0, 1).to(keys.dtype))
        values.index_copy_(2, self.place, value.transpose(0, 1).to(keys.dtype))
        (samples, _, _, size), (heads, prompts, _, _) = query.shape, self.keys[layer].shape
        query = (query * scale).to(keys.dtype).view(samples, heads, -1, size).transpose(0, 1)
        # (K, A, r, T) and (K, B, S * r, P)
        own = torch.matmul(query, keys.mT) + self.own_bias
        shared = torch.matmul(self._to_grid(query).reshape(heads, prompts, -1, size),
                              self.keys[layer].mT)
        if self.prompt_bias is not None:
            shared = shared + self.prompt_bias
        own = self._to_grid(own).view(*shared.shape[:3], -1)
        weights = torch.cat([shared, own], dim=-1).softmax(dim=-1).to(keys.dtype)
        shared, own = weights.split([shared.shape[-1], own.shape[-1]], dim=-1)
        shared = torch.matmul(shared, self.values[layer]).view(heads, -1, *query.shape[2:])
        own = own.reshape(*shared.shape[:3], -1)
        output = self._from_grid(shared) + torch.matmul(self._from_grid(own), values)
        return output.transpose(0, 1).reshape(samples, 1, -1, size)

    def _to_grid(self, rows: Tensor) -> Tensor:
        """(K, A, ...) -> (K, B * S, ...)."""
        return rows if self.slots is None else rows.index_select(1, self.slots)

    def _from_grid(self, rows: Tensor) -> Tensor:
        """(K, B * S, ...) -> (K, A, ...)."""
        return rows if self.seats is None else rows.index_select(1, self.seats)


class PrefillRow(PackedRow):
    """A row of prompts that stores its keys and values in a cache.

    Args:
        cache: Where to store them.
        first: Number of the row's first prompt.
        count: Number of prompts in the row.
    """

    def __init__(self, cache: PrefixCache, first: int, count: int) -> None:
        self.lengths = cache.lengths[first:first + count]
        super().__init__([PackedGroup(length, [], cache.device) for length in self.lengths],
                         cache.device)
        self.cache = cache
        self.first = first

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float,
               layer: int) -> Tensor:
        self.cache.put_prompts(self.first, layer, key[0].split(self.lengths, dim=1),
                               value[0].split(self.lengths, dim=1))
        return super().attend(query, key, value, scale, layer)
