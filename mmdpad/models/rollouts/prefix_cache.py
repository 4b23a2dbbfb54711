# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A cache of keys and values: of each prompt once, and of the samples that continue it.

Notation: B prompts of at most P tokens, A active samples; N tokens in a forward pass, at most W of
each sample and M of each prompt; K key-value heads with r query heads each, of d channels; T slots
for a sample's own tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmdpad.models.heads.packed_attention import PackedGroup
from mmdpad.models.heads.recurrent_layers import Mixer
from mmdpad.models.heads.shared_prefix import PackedRow

from .cells import Cells, moves, regrid
from .recurrent_states import RecurrentStates

BLOCK, CPU_BLOCK = 64, 16
"""The space for samples' own tokens is a multiple of so many slots: on a GPU, and on a CPU, where
empty slots take more of the time."""
_VERSIONS = itertools.count()


class Feed(NamedTuple):
    """The tokens of one forward pass, see :meth:`PrefixCache.feed`.

    Attributes:
        tokens: (N,) long, sample after sample.
        samples: Their place in a grid with one row per sample.
        prompts: Their place in a grid with one row per prompt; the same object if that is the same.
        rows: (N,) long, the sample of each token.
        to_prompts, to_samples: From one grid to the other, see :func:`.cells.moves`.
    """

    tokens: Tensor
    samples: Cells
    prompts: Cells
    rows: Tensor
    to_prompts: Tensor | None
    to_samples: Tensor | None

    @property
    def width(self) -> int:
        """W, the largest number of tokens of a sample."""
        return self.samples.width

    @property
    def is_full(self) -> bool:
        """Whether each sample has W tokens."""
        return self.samples.tokens is None

    def spread(self, x: Tensor) -> Tensor:
        """Give each token the value of its sample: (A,) -> (N,)."""
        return x if self.is_full and self.width == 1 else x.index_select(0, self.rows)


class PrefixCache:
    """Keys and values of prompts, and of samples that stand at different places.

    Each forward pass has the newest tokens of samples, and perhaps guesses of the next ones, by
    :meth:`make_room`, :meth:`feed` and :meth:`open`; then :meth:`advance` says how many of them
    stay. Between calls of :meth:`keep` and those of :meth:`make_room` that return True, all shapes
    are those of the feed, and a pass changes tensors of the cache only in place.

    Args:
        lengths: Number of tokens in each of B prompts.
        device: Device of the keys and values.

    Attributes:
        places: (A,) long, the number of own tokens stored of each sample, without guesses.
        version: Another number whenever tensors of the cache were replaced by new ones; no other
            cache ever has the same.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths = list(lengths)
        self.device = device
        # By layer: keys and values of prompts (K, B, P, d) and of samples (K, A, T, d).
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.own_keys: list[Tensor] = []
        self.own_values: list[Tensor] = []
        self.repeats = 1  # r
        self.numbers: dict[int, int] = {}  # of the layers that attend, as others have no keys
        self.states = RecurrentStates()
        self.places = torch.zeros(0, dtype=torch.long, device=device)
        # 0 where a token in a slot may attend to a slot of its sample, else -inf, (T, T).
        self.own_bias = torch.empty(0, 0, device=device)
        self.steps = torch.empty(0, dtype=torch.long, device=device)
        self.prompt_bias = torch.zeros(1, 1, 1, device=device)
        self.padded = False
        self.version = next(_VERSIONS)
        self._plan: tuple[tuple[int, ...] | int, Feed] | None = None  # of the last pass
        # By layer: transposed keys, and values, as batches of matrices, of prompts (K * B, d, P),
        # (K * B, P, d) and samples (K * A, d, T), (K * A, T, d); and the samples' keys and values
        # by slot (A, T, K, d). Views, since each operation counts in a pass.
        self.prompt_matrices: list[tuple[Tensor, Tensor]] = []
        self.own_matrices: list[tuple[Tensor, Tensor]] = []
        self.own_slots: list[tuple[Tensor, Tensor]] = []

    def put_prompts(self, first: int, layer: int, keys: Sequence[Tensor],
                    values: Sequence[Tensor]) -> None:
        """Store keys and values, (K, P, d) each, of consecutive prompts, from ``first`` on."""
        number = self.numbers.setdefault(layer, len(self.numbers))
        for cache, parts in ((self.keys, keys), (self.values, values)):
            if number == len(cache):
                heads, _, size = parts[0].shape
                cache.append(values[0].new_zeros(heads, len(self.lengths), max(self.lengths), size))
            for prompt, part in enumerate(parts, start=first):
                cache[number][:, prompt, :self.lengths[prompt]] = part

    def start_samples(self, group_size: int) -> None:
        """Start ``group_size`` samples of each prompt, without tokens."""
        self.owners = [b for b in range(len(self.lengths)) for _ in range(group_size)]
        self.places = self.places.new_zeros(len(self.owners))
        self.states.start_samples(group_size)
        for prompts, own in ((self.keys, self.own_keys), (self.values, self.own_values)):
            own += [x.new_empty(len(x), len(self.owners), 0, x.shape[3]) for x in prompts]
        self._arrange()

    def make_room(self, length: int, most: int | None = None) -> bool:
        """Make room for tokens of each sample. This never waits for the device.

        Args:
            length: The tokens of the longest sample, and the most of any one in the next pass.
            most: How many it may have in the end, if each size costs time (a captured step). Then
                the room at least doubles when it grows, up to this number: it is less than twice
                what was needed, or than one block more, and n tokens need about log2(n) sizes.

        Returns:
            Whether this allocated new tensors.
        """
        room = self.own_keys[0].shape[2]
        if length <= room:
            return False
        if most is not None:
            length = max(length, min(2 * room, most))
        block = CPU_BLOCK if self.device.type == 'cpu' else BLOCK
        more = -(-(length - room) // block) * block
        for own in (self.own_keys, self.own_values):
            for layer, tensor in enumerate(own):
                own[layer] = pad(tensor, (0, 0, 0, more))
        keys = self.own_keys[0]
        self.own_bias = keys.new_full((keys.shape[2],) * 2, -torch.inf).triu(1)
        self.steps = torch.arange(keys.shape[2], device=self.device)
        self._replaced()
        return True

    def keep(self, samples: Tensor) -> None:
        """Continue only the samples with indices (A',), long and ascending, and their prompts."""
        owners = [self.owners[row] for row in samples.tolist()]
        prompts = sorted(set(owners))
        self.places = self.places[samples]
        self.states.keep(samples)
        for own in (self.own_keys, self.own_values):
            for layer, tensor in enumerate(own):
                own[layer] = tensor.index_select(1, samples)
        if len(prompts) < len(self.lengths):
            self.lengths = [self.lengths[b] for b in prompts]
            chosen = torch.tensor(prompts, device=self.device)
            for cache in (self.keys, self.values):
                for layer, tensor in enumerate(cache):
                    cache[layer] = tensor[:, :, :max(self.lengths)].index_select(1, chosen)
        self.owners = [prompts.index(owner) for owner in owners]
        self._arrange()

    def replace(self, samples: Sequence[int], new: PrefixCache, group_size: int) -> list[int]:
        """Let samples of other prompts take the place of samples that have ended.

        The new prompts take the seats of those without samples. If there are enough seats of either
        kind, and they are long enough, nothing else is copied.

        Args:
            samples: Indices of the samples that have ended.
            new: A cache of other prompts, without samples. It cannot be used afterwards.
            group_size: Number of samples of each new prompt.

        Returns:
            The indices of the new samples, prompt after prompt.
        """
        ended = set(samples)
        seats = self._free([owner for row, owner in enumerate(self.owners) if row not in ended],
                           len(self.lengths), len(new.lengths))
        count = len(seats) * group_size
        rows = [*samples, *range(len(self.owners), len(self.owners) + count)][:count]
        grown = self._grow(max(0, rows[-1] + 1 - len(self.owners)),
                           max(0, max(seats) + 1 - len(self.lengths)), max(new.lengths))
        chosen = torch.tensor(seats, device=self.device)
        for cache, others in ((self.keys, new.keys), (self.values, new.values)):
            for own, other in zip(cache, others, strict=True):
                own[:, :, :other.shape[2]].index_copy_(1, chosen, other)
        self.places.index_fill_(0, torch.tensor(rows, device=self.device), 0)
        self.states.replace(rows, new.states, group_size, len(self.places))
        owners, self.owners = self.owners, [*self.owners, *[0] * (rows[-1] + 1 - len(self.owners))]
        for number, seat in enumerate(seats):
            self.lengths[seat:seat + 1] = [new.lengths[number]]
            for row in rows[number * group_size:(number + 1) * group_size]:
                self.owners[row] = seat
        bias, version = self.prompt_bias, self.version
        self._arrange()
        if not grown and owners == self.owners and bias.shape == self.prompt_bias.shape:
            # The same tensors, which a captured step may read.
            self.prompt_bias, self.version = bias.copy_(self.prompt_bias), version
        return rows

    @staticmethod
    def _free(used: Sequence[int], total: int, count: int) -> list[int]:
        """The first ``count`` numbers that are not used, those below ``total`` first."""
        free = sorted(set(range(total + count)) - set(used))
        return free[:count]

    def _grow(self, samples: int, prompts: int, length: int) -> bool:
        """Allocate more samples and prompts, and prompts of at least ``length`` tokens, if needed;
        return whether it was."""
        length = max(0, length - self.keys[0].shape[2])
        if not (samples or prompts or length):
            return False
        for cache, sizes in ((self.keys, (0, 0, 0, length, 0, prompts)),
                             (self.values, (0, 0, 0, length, 0, prompts)),
                             (self.own_keys, (0, 0, 0, 0, 0, samples)),
                             (self.own_values, (0, 0, 0, 0, 0, samples))):
            for layer, tensor in enumerate(cache):
                cache[layer] = pad(tensor, sizes)
        self.places = pad(self.places, (0, samples))
        return True

    def _arrange(self) -> None:
        """Update what depends on the prompts' lengths and the samples' prompts."""
        self._replaced()
        self._plan = None
        longest, keys = self.keys[0].shape[2], self.keys[0]
        self.padded = min(self.lengths) < longest
        # If padded: 0 where a query may attend to a prompt, else -inf, (K * B, 1, P).
        self.prompt_bias = keys.new_zeros(1, 1, 1)
        if self.padded:
            lengths = torch.tensor(self.lengths, device=self.device)[:, None]
            hidden = torch.arange(longest, device=self.device) >= lengths
            bias = self.prompt_bias[0].masked_fill(hidden, -torch.inf)
            self.prompt_bias = bias.repeat(len(keys), 1)[:, None]

    def _replaced(self) -> None:
        """Update the views of keys and values after new ones were allocated."""
        self.version = next(_VERSIONS)
        self.prompt_matrices, self.own_matrices = (
            [(k.flatten(0, 1).mT, v.flatten(0, 1)) for k, v in zip(keys, values, strict=True)]
            for keys, values in ((self.keys, self.values), (self.own_keys, self.own_values)))
        self.own_slots = [(k.permute(1, 2, 0, 3), v.permute(1, 2, 0, 3)) for k, v in
                          zip(self.own_keys, self.own_values, strict=True)]

    def feed(self, tokens: Tensor, counts: Sequence[int] | None = None) -> Feed:
        """Describe a forward pass.

        Args:
            tokens: (N,) long, sample after sample: of each the token after those stored, then
                guesses of the next ones.
            counts: Number of tokens of each of the A samples; a sample may have none. By default,
                all have equally many.
        """
        kind = len(tokens) // len(self.owners) if counts is None else tuple(counts)
        if self._plan is None or self._plan[0] != kind:
            self._plan = kind, self._make_plan(tokens, torch.tensor(kind))
        return self._plan[1]._replace(tokens=tokens)

    def _make_plan(self, tokens: Tensor, counts: Tensor) -> Feed:
        samples = len(self.owners)
        rows = torch.arange(samples).repeat_interleave(counts, output_size=len(tokens))
        grid = Cells.of(rows, samples, self.device)
        prompts = grid
        if self.owners != list(range(len(self.lengths))):
            prompts = Cells.of(torch.tensor(self.owners)[rows], len(self.lengths), self.device)
        return Feed(tokens, grid, prompts, rows.to(self.device), moves(grid, prompts),
                    moves(prompts, grid))

    def open(self, feed: Feed) -> FeedLayout:
        """Start the forward pass of a feed, for which there is room."""
        return FeedLayout(self, feed)

    def advance(self, kept: Tensor | int) -> None:
        """Keep the first tokens of the last pass, (A,) long, or as many of all samples."""
        self.places += kept

    def drop_guesses(self) -> None:
        """Clear what is not kept. Nothing attends to it, but NaN times a weight of 0 is NaN."""
        stale = (self.steps >= self.places[:, None])[None, :, :, None]
        for tensor in (*self.own_keys, *self.own_values):
            tensor.masked_fill_(stale, 0)


class FeedLayout:
    """The :class:`Layout` of a pass over the tokens of a feed.

    A token attends to its prompt, to its sample's own tokens before it, and to itself. All tokens
    of a prompt's samples, and the r query heads that share keys, are multiplied with the prompt's
    keys in one matrix product, so a prompt is read once per layer, however many samples it has. One
    softmax runs over both parts. Products have the dtype of the cache; the softmax is computed in
    float32 for bfloat16.

    Args:
        cache: The cache, with room for the tokens.
        feed: The tokens.

    Attributes:
        slots: (N,) long, where the tokens go among their sample's own tokens.
    """

    def __init__(self, cache: PrefixCache, feed: Feed) -> None:
        self.cache = cache
        self.feed = feed
        heads, samples, room, _ = cache.own_keys[0].shape
        # The last slot that the token in a cell of the grid of samples attends to, (A, W).
        limits = cache.places[:, None]
        if feed.width > 1:
            limits = limits + cache.steps[:feed.width]
        self.slots = limits.flatten()
        if feed.samples.cells is not None:
            self.slots = self.slots.index_select(0, feed.samples.cells)
        # 0 where a query may attend to its sample's slots, else -inf, (K * A, W * r, T).
        limits = limits[None, :, :, None].expand(heads, -1, -1, cache.repeats)
        self.bias = cache.own_bias.index_select(0, limits.flatten()).view(
            heads * samples, -1, room)
        self.prompt_bias = cache.prompt_bias.expand(
            feed.prompts.rows * heads, feed.prompts.width * cache.repeats, cache.keys[0].shape[2])

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float,
               layer: int) -> Tensor:
        """Map (N, K * r, 1, d) and (N, K, 1, d) to (N, 1, K * r, d)."""
        dtype = self.cache.keys[0].dtype
        rows, keys, values = (x[:, :, 0].to(dtype) for x in (query, key, value))
        output = self.attend_rows(rows, keys, values, scale, layer)
        return output.view(len(query), 1, query.shape[1], -1)

    def attend_rows(self, query: Tensor, key: Tensor, value: Tensor, scale: float,
                    layer: int) -> Tensor:
        """Map (N, K * r, d) and (N, K, d), of the cache's dtype, to (N, K * r * d)."""
        cache, samples, prompts = self.cache, self.feed.samples, self.feed.prompts
        layer = cache.numbers[layer]
        for slots, new in zip(cache.own_slots[layer], (key, value), strict=True):
            slots.index_put_((self.feed.rows, self.slots), new)
        heads, size = key.shape[1:]
        # (K, N, r, d): all heads of a kind together, so that the grids of full rows are views.
        rows = torch.stack(query.split(cache.repeats, dim=1))
        own_keys, own_values = cache.own_matrices[layer]
        shared_keys, shared_values = cache.prompt_matrices[layer]
        own = torch.baddbmm(self.bias, samples.put(rows), own_keys, alpha=scale)
        shared = torch.baddbmm(self.prompt_bias, prompts.put(rows), shared_keys,
                               beta=int(cache.padded), alpha=scale)
        own = regrid(own, self.feed.to_prompts, samples, prompts)
        weights = torch.cat([shared, own], dim=-1).softmax(dim=-1).to(key.dtype)
        shared, own = weights.split_with_sizes([shared.shape[-1], own.shape[-1]], dim=-1)
        shared = torch.bmm(shared, shared_values)
        shared, own = (regrid(x, self.feed.to_samples, prompts, samples) for x in (shared, own))
        output = samples.take(torch.baddbmm(shared, own, own_values), heads)
        return torch.cat(output.view(heads, len(query), -1).unbind(), dim=1)


    def recur(self, mixer: Mixer, states: Tensor, layer: int) -> Tensor:
        """(N, 1, D) -> (N, 1, D), for at most one token of each sample."""
        assert self.feed.width == 1, 'a recurrent state cannot be taken back after a wrong guess'
        return self.cache.states.run(mixer, states, layer,
                                     None if self.feed.is_full else self.feed.rows)


class PrefillRow(PackedRow):
    """A row of prompts that stores their keys, values and states in a cache.

    Args:
        cache: Where to store them.
        first: Number of the row's first prompt.
        groups: The row: a prompt without responses, or the common start of several prompts, whose
            responses are what follows in each. Of recurrent layers, only the former.

    Attributes:
        last: Where in the row the last token of each prompt is, (prompts,) long.
    """

    def __init__(self, cache: PrefixCache, first: int, groups: Sequence[PackedGroup]) -> None:
        super().__init__(groups, cache.device)
        self.cache = cache
        self.first = first
        places = []
        for group, tokens in zip(groups, torch.arange(sum(map(len, groups))).split(
                [len(group) for group in groups]), strict=True):
            start, *rests = tokens.split([group.prompt, *group.responses])
            places += [torch.cat([start, rest]) for rest in rests] or [start]
        self.lengths = [len(place) for place in places]
        self.places = torch.cat(places).to(cache.device)
        self.last = torch.stack([place[-1] for place in places]).to(cache.device)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float,
               layer: int) -> Tensor:
        self.cache.repeats = query.shape[1] // key.shape[1]
        self.cache.put_prompts(self.first, layer, *(
            x[0].index_select(1, self.places).split(self.lengths, dim=1) for x in (key, value)))
        return super().attend(query, key, value, scale, layer)

    def recur(self, mixer: Mixer, states: Tensor, layer: int) -> Tensor:
        output, after = self.run_recurrence(mixer, states, layer)
        self.cache.states.put_prompts(layer, after)
        return output
