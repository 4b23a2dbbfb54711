# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The attention of a packed row, in a number of calls that does not grow with its responses.

Notation: B prompts of up to P tokens, G responses to each, N = B * G of up to R tokens, L tokens of
the row, T of them responses', H query heads, K key heads (H is a multiple of K), d their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad, scaled_dot_product_attention

# Prompts are padded to one length if that adds no more than this share of tokens.
PADDING = 0.1
_KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
# The kernel of older versions may not read keys and values of fewer heads than the queries'.
_GROUPS_HEADS = Version(torch.__version__) >= Version('2.10')


@dataclass(frozen=True)
class PackedGroup:
    """A prompt and its responses within a row.

    Attributes:
        prompt: Length of the prompt.
        responses: Lengths of the responses.
    """

    prompt: int
    responses: Sequence[int]

    @property
    def longest(self) -> int:
        """Length of the longest response; 0 without responses."""
        return max(self.responses, default=0)

    def __len__(self) -> int:
        return self.prompt + sum(self.responses)


def joins_parts(device: torch.device) -> bool:
    """Whether rows on a device use :class:`JoinedAttention`, whose kernel is that of CPUs."""
    return device.type == 'cpu'


class Spans:
    """Spans of a row, as a grid padded on the right.

    Args:
        starts, lengths: First place in the row and length of each of N spans.
        device: Device of the row.
        pads_left: Pad on the left instead.
    """

    def __init__(self, starts: Sequence[int], lengths: Sequence[int],
                 device: torch.device, pads_left: bool = False) -> None:
        self.longest = max(lengths, default=0)
        self.shape = (len(lengths), self.longest)
        sizes = torch.tensor(lengths, dtype=torch.long)[:, None]
        columns = torch.arange(self.longest) - (self.longest - sizes if pads_left else 0 * sizes)
        self.filled = (columns >= 0) & (columns < sizes)
        places = (torch.tensor(starts, dtype=torch.long)[:, None] + columns)[self.filled]
        # Where the tokens are in the row, and in the flattened grid.
        self.places: Tensor | slice = places.to(device)
        self.cells: Tensor | slice = self.filled.flatten().nonzero()[:, 0].to(device)
        self.filled = self.filled.to(device)
        self.count = len(places)
        if self.count == self.filled.numel() and bool((places.diff() == 1).all()):
            first = int(places[0]) if self.count else 0  # the grid is a view of the row
            self.places, self.cells = slice(first, first + self.count), slice(None)

    def grid(self, row: Tensor) -> Tensor:
        """(L, ...) -> (N, longest, ...), zero where a span has ended."""
        tokens = _pick(row, self.places)
        if isinstance(self.cells, Tensor):
            cells = row.new_zeros(self.filled.numel(), *row.shape[1:])
            tokens = cells.index_copy(0, self.cells, tokens)
        return tokens.unflatten(0, self.shape)

    def put(self, row: Tensor, tokens: Tensor) -> Tensor:
        """The row (L, ...) with other tokens (T, ...) at the places of the spans."""
        row = row.clone()
        row[self.places] = tokens
        return row

    def flat(self, grid: Tensor) -> Tensor:
        """(N, longest, ...) -> (T, ...): the tokens, span by span."""
        return _pick(grid.flatten(0, 1), self.cells)


def _pick(row: Tensor, places: Tensor | slice) -> Tensor:
    """``row[places]``; for indices by an operation whose gradient needs no sorting."""
    return row.index_select(0, places) if isinstance(places, Tensor) else row[places]


def response_spans(groups: Sequence[PackedGroup], starts: Sequence[int],
                    device: torch.device) -> Spans:
    """The spans of all responses of groups that start at given places of the row."""
    places = [place for group, start in zip(groups, starts, strict=True)
              for place in accumulate(group.responses[:-1], initial=start + group.prompt)
              if group.responses]
    return Spans(places, [n for group in groups for n in group.responses], device)


def row_starts(groups: Sequence[PackedGroup]) -> list[int]:
    return list(accumulate(map(len, groups), initial=0))[:-1]


class CopiedPrompts:
    """Attention by :func:`scaled_dot_product_attention`: each response gets a copy of its prompt's
    keys and values before its own. Groups of about one length are computed together, padded to the
    longest prompt and response.

    Args:
        groups: The groups of the row.
        device: Device of the row.
    """

    def __init__(self, groups: Sequence[PackedGroup], device: torch.device) -> None:
        self.batches = []
        starts = row_starts(groups)
        for members in _batches(groups):
            own = [groups[index] for index in members]
            places = [starts[index] for index in members]
            prompts = Spans(places, [group.prompt for group in own], device)
            responses = response_spans(own, places, device)
            self.batches.append((prompts, responses, _visible(prompts, responses)))
        # Where each token of the row is in the batches' outputs.
        tokens = torch.arange(sum(map(len, groups)), device=device)
        order = torch.cat([tokens[spans.places] for batch in self.batches for spans in batch[:2]])
        self.order = order.argsort()

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """(L, H, d), (L, K, d) and (L, K, d) -> (L, H, d)."""
        repeats = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
        outputs = []
        for prompts, responses, visible in self.batches:
            q, k, v = (prompts.grid(x).transpose(1, 2) for x in (query, key, value))
            seen = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
            outputs.append(prompts.flat(seen.transpose(1, 2)))
            if responses.count:
                own = [responses.grid(x).transpose(1, 2) for x in (query, key, value)]
                keys, values = (self._after(*pair) for pair in ((k, own[1]), (v, own[2])))
                seen = scaled_dot_product_attention(own[0], keys, values, attn_mask=visible,
                                                    scale=scale)
                outputs.append(responses.flat(seen.transpose(1, 2)))
        return torch.cat(outputs).index_select(0, self.order)

    def _after(self, prompts: Tensor, own: Tensor) -> Tensor:
        """(B, H, P, d) and (N, H, R, d) -> (N, H, P + R, d): each response's prompt before it."""
        group = len(own) // len(prompts)
        before = prompts[:, None].expand(-1, group, -1, -1, -1).flatten(0, 1)
        return torch.cat([before, own], dim=2)


def _batches(groups: Sequence[PackedGroup]) -> list[list[int]]:
    """Numbers of the groups that are computed together: those with the same number of responses,
    by length of the prompt, as long as padding adds no more than :data:`PADDING`."""
    batches: list[list[int]] = []
    for index in sorted(range(len(groups)), key=lambda index: (len(groups[index].responses),
                                                               groups[index].prompt)):
        batch = [groups[i] for i in (*(batches[-1] if batches else ()), index)]
        sizes = [group.prompt + len(group.responses) * group.longest for group in batch]
        padded = len(batch) * (max(group.prompt for group in batch) + len(
            batch[0].responses) * max(group.longest for group in batch))
        equal = len(batch[0].responses) == len(batch[-1].responses)
        if batches and equal and padded <= (1 + PADDING) * sum(sizes):
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _visible(prompts: Spans, responses: Spans) -> Tensor:
    """What the responses' tokens attend to: (R, P + R) bool, or (N, 1, R, P + R) if prompts are
    padded. Padding of responses comes last and stays hidden."""
    length = responses.longest
    own = torch.ones(length, length, dtype=torch.bool, device=prompts.filled.device).tril()
    if bool(prompts.filled.all()):
        return pad(own, (prompts.longest, 0), value=True)
    count = responses.shape[0]
    before = prompts.filled.repeat_interleave(count // len(prompts.filled), dim=0)
    return torch.cat([before[:, None, None].expand(-1, 1, length, -1),
                      own.expand(count, 1, -1, -1)], dim=-1)


class JoinedAttention:
    """Attention on a CPU, without a copy of the prompt for each response.

    All tokens of a group attend to its prompt in one causal call: token i sees the prompt's tokens
    up to i, so a response's token, which comes later, sees all of them. In a second call, the
    responses of the row attend to their own tokens. With o and s each call's output and the log-sum
    of its weights, a response's token has the log-sum s = log(exp(s1) + exp(s2)) and the output
    o1 exp(s1 - s) + o2 exp(s2 - s). The kernel's backward pass computes the weights from the
    log-sum that it is given, so given the joined o and s, it returns the gradients of either part.

    Args:
        groups: The groups of the row.
        device: Device of the row, a CPU.
    """

    def __init__(self, groups: Sequence[PackedGroup], device: torch.device) -> None:
        starts = row_starts(groups)
        # The tokens of each group, and those of its prompt.
        self.spans = [(slice(start, start + len(group)), slice(start, start + group.prompt))
                      for group, start in zip(groups, starts, strict=True)]
        self.responses = response_spans(groups, starts, device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """(L, H, d), (L, K, d) and (L, K, d) -> (L, H, d)."""
        tensors = [query, key, value]
        if torch.is_autocast_enabled('cpu'):
            tensors = [x.to(torch.get_autocast_dtype('cpu')) for x in tensors]
        if not _GROUPS_HEADS:
            repeats = query.shape[1] // key.shape[1]
            tensors[1:] = (x.repeat_interleave(repeats, dim=1) for x in tensors[1:])
        return _Joined.apply(*tensors, self.spans, self.responses, scale)


class _Joined(torch.autograd.Function):
    """See :class:`JoinedAttention`."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor,
                spans: list[tuple[slice, slice]], responses: Spans, scale: float) -> Tensor:
        parts = [_KERNEL(*_heads_first(query[tokens][None], key[prompt][None],
                                       value[prompt][None]), 0.0, True, scale=scale)
                 for tokens, prompt in spans]
        output, log_sum = (_join([x[0].transpose(0, 1) for x in x])
                           for x in zip(*parts, strict=True))
        if responses.count:
            own = _KERNEL(*_heads_first(*(responses.grid(x) for x in (query, key, value))),
                          0.0, True, scale=scale)
            own, own_sum = (responses.flat(x.transpose(1, 2)) for x in own)
            joined = torch.logaddexp(log_sum[responses.places], own_sum)
            weight = (own_sum - joined).exp_()[..., None].to(own.dtype)
            # Not in place: the kernel's outputs may be kept for a recomputation.
            output = responses.put(output, output[responses.places].lerp(own, weight))
            log_sum = responses.put(log_sum, joined)
        ctx.spans, ctx.responses, ctx.scale = spans, responses, scale
        ctx.save_for_backward(query, key, value, output, log_sum)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        responses = ctx.responses
        query, key, value, output, log_sum = ctx.saved_tensors
        gradient = gradient.contiguous()
        results = [torch.empty_like(x) for x in (query, key, value)]
        for tokens, prompt in ctx.spans:
            parts = _BACKWARD(*_heads_first(*(x[None] for x in (
                gradient[tokens], query[tokens], key[prompt], value[prompt], output[tokens],
                log_sum[tokens]))), 0.0, True, scale=ctx.scale)
            for result, part, span in zip(results, parts, (tokens, prompt, prompt), strict=True):
                result[span] = part[0].transpose(0, 1)
        if responses.count:
            parts = _BACKWARD(*_heads_first(*(responses.grid(x) for x in (
                gradient, query, key, value, output, log_sum))), 0.0, True, scale=ctx.scale)
            own = [responses.flat(part.transpose(1, 2)) for part in parts]
            results[0][responses.places] += own[0]
            results[1][responses.places], results[2][responses.places] = own[1:]
        return *results, None, None, None


def _heads_first(*grids: Tensor) -> list[Tensor]:
    """(N, R, H, ...) -> (N, H, R, ...)."""
    return [grid.transpose(1, 2) for grid in grids]


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
