# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Which token followed the same last tokens before, with the most similar draw."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Packed = NDArray[np.uint64]
"""Sorted observations: 28 bits of a context's hash, 16 of a draw, 20 of the token that followed."""

CONTEXTS = ((6, False), (4, False), (2, False), (3, True))
"""How many of the last tokens make up each of C contexts, and whether it holds for one prompt."""
LONGEST = 6
DRAWS, TOKENS = 16, 20
NEIGHBORS = np.arange(-2, 2)
CODES = 9
"""Of an observation in a context: 0 for none; else how many of the nearest ones had the same token
(1 to 4), plus 4 if one had another token."""
MIDDLE, LAST = np.uint64(2**(DRAWS - 1)), np.uint64(2**DRAWS - 1)
_CONTEXT, _TOKEN = np.uint64(2**64 - 2**(DRAWS + TOKENS)), np.uint64(2**TOKENS - 1)
_MIX = np.uint64(0x9E3779B97F4A7C15)
# One row for each token of a window, then for its prompt.
_FACTORS = np.random.default_rng(0).integers(2**63, size=(LONGEST + 1, len(CONTEXTS))) * 2 + 1
for _column, (_order, _of_prompt) in enumerate(CONTEXTS):
    _FACTORS[:LONGEST - _order, _column] = 0
    _FACTORS[LONGEST, _column] *= _of_prompt


def hash_contexts(windows: Ints, owners: Ints | int = 0) -> Packed:
    """The hashes (M, C) of contexts, in their place in :data:`Packed`.

    Args:
        windows: (M, LONGEST), the tokens before each place.
        owners: (M,), numbers of the prompts, from 1 on; 0 matches none of them.
    """
    sums = (windows + 1) @ _FACTORS[:LONGEST]
    sums += np.reshape(owners, (-1, 1)) * _FACTORS[LONGEST]
    mixed = sums.view(np.uint64)
    mixed ^= mixed >> np.uint64(31)
    mixed *= _MIX
    mixed &= _CONTEXT
    return mixed


def pack(contexts: Packed, draws: NDArray[np.uint64], tokens: Ints) -> Packed:
    """Observations (M * C,), not sorted, of tokens (M,) in contexts (M, C) with draws (M,)."""
    rest = (draws << np.uint64(TOKENS)) | tokens.astype(np.uint64) % np.uint64(2**TOKENS)
    return (contexts | rest[:, None]).ravel()


def look_up(seen: Packed, contexts: Packed, draws: NDArray[np.uint64]) -> tuple[Ints, Ints]:
    """Find the token that was observed in each context (M, C) with the draw nearest to (M,).

    Args:
        seen: Sorted, with two entries before and after that match no context.

    Returns:
        Tokens, -1 without an observation, and codes (:data:`CODES`), (M, C) each.
    """
    wanted = contexts | (draws << np.uint64(TOKENS))[:, None]
    places = seen.searchsorted(wanted.ravel()).reshape(wanted.shape)
    near = seen[places[..., None] + NEIGHBORS]
    same = (near ^ wanted[..., None]) <= ~_CONTEXT
    tokens = near & _TOKEN
    left = same[..., 1] & ((wanted - near[..., 1] <= near[..., 2] - wanted) | ~same[..., 2])
    found = np.where(left, tokens[..., 1], tokens[..., 2])
    agree = (same & (tokens == found[..., None])).sum(axis=-1)
    agree += 4 * (same.sum(axis=-1) > agree)
    return np.where(agree > 0, found.astype(np.int64), -1), agree


def sort_observations(*parts: Packed) -> Packed:
    """All observations, for :func:`look_up`."""
    ends = np.array([0, 0, 2**64 - 1, 2**64 - 1], dtype=np.uint64)
    seen = np.concatenate([ends, *parts])
    seen.sort(kind='stable')  # fast for parts that are sorted
    return seen


def windows_of(tokens: Ints, lengths: Ints) -> Ints:
    """The tokens before each of (M,) tokens of texts of ``lengths``, (M, LONGEST), 0 if none."""
    places = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    padded = np.concatenate([np.zeros(LONGEST, dtype=np.int64), tokens])
    windows = sliding_window_view(padded, LONGEST)[:-1]
    return np.where(np.arange(LONGEST, 0, -1) <= places[:, None], windows, 0)
