# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What guesses of tokens are based on: the last rollouts, and how often guesses were right."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import all_gather_object
from numpy.typing import NDArray

from .ngrams import (
    CODES,
    CONTEXTS,
    MIDDLE,
    Ints,
    Packed,
    hash_contexts,
    pack,
    sort_observations,
    windows_of,
)

ROLLOUTS = 4
"""Number of rollouts that are remembered."""
CELLS = len(CONTEXTS) * CODES
SHAPE = (CELLS, 3, 2, 2)
"""Of counts of guesses: the best cell of the n-grams, a context with its code (0: none); the last
pass (0: chose nothing at this place, 1: after another token than the guess before, 2: after the
same one); whether both guess the same; and whose guess it is (0: n-grams, 1: last pass)."""
FADING = 0.8
"""What counts of earlier rollouts are worth after another one."""
MOST_TOKENS = 2**18
"""Most tokens that are remembered of a rollout, the newest; sorted, they take 8 MB."""


def _prior() -> NDArray[np.float64]:
    """Counts to start with: guesses made, and those that were right."""
    codes = np.arange(CELLS) % CODES
    tried = np.full(SHAPE, 2.0)
    right = 0.7 * tried
    share = np.where(codes > 4, (codes - 4) / 6, codes / (codes + 0.5))
    right[..., 0] = 2 * share[:, None, None]
    return np.stack([tried, right])


PRIOR = _prior()


class Texts(NamedTuple):
    """Responses, one after the other, all int32.

    Attributes:
        tokens: (T,), of all responses.
        lengths: (N,).
        draws: (T,), of which the tokens were drawn; None for greedy samples.
    """

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int32]
    draws: NDArray[np.int32] | None

    @classmethod
    def join(cls, parts: Sequence[Texts]) -> Texts:
        """All of them."""
        draws = [part.draws for part in parts if part.draws is not None]
        return cls(np.concatenate([part.tokens for part in parts]),
                   np.concatenate([part.lengths for part in parts]),
                   np.concatenate(draws) if draws else None)

    @classmethod
    def of(cls, ids: Ints, lengths: Ints, draws: NDArray[np.uint64] | None) -> Texts:
        """Of tokens and draws (N, R) and lengths (N,)."""
        mask = np.arange(ids.shape[1]) < lengths[:, None]
        return cls(ids[mask].astype(np.int32), lengths.astype(np.int32),
                   None if draws is None else draws[mask].astype(np.int32))


class GuessMemory:
    """What guesses are based on: the last rollouts, and how often guesses were right.

    A training keeps what its rollouts sampled by :meth:`share`, which is then equal on all
    processes. Whatever else was sampled since (an evaluation) is remembered only until
    :meth:`forget_recent`.

    Args:
        turns: Most turns of a conversation, each of which is added as a rollout, and which are kept
            like one. 1 without conversations.

    Attributes:
        log: Of what was last shared: ``speculation/acceptance_length``, the mean number of tokens
            that a sample gets in a pass, and ``speculation/acceptance_rate``, the share of guesses
            that were right; empty if there were no guesses.
    """

    def __init__(self, turns: int = 1) -> None:
        self.turns = turns
        self.rollouts: deque[list[dict[str, Any]]] = deque(maxlen=ROLLOUTS)
        self.recent: deque[dict[str, Any]] = deque(maxlen=ROLLOUTS * turns)
        self.tallies = np.zeros((2, *SHAPE))
        self.log: dict[str, float] = {}
        self._sorted: dict[bool, Packed] = {}

    def forget_recent(self) -> None:
        """Forget what was sampled since the last :meth:`share`."""
        self.recent.clear()
        self._sorted.clear()

    def share(self) -> None:
        """Keep what all processes sampled since :meth:`forget_recent`. All take part."""
        found = [one for some in all_gather_object(list(self.recent)) for one in some]
        self.forget_recent()
        if found:
            turns, fed, kept = sum(one.pop('counts') for one in found).tolist()
            self.log = {} if fed == turns else {
                'speculation/acceptance_length': kept / turns,
                'speculation/acceptance_rate': (kept - turns) / (fed - turns)}
            self.tallies = FADING * self.tallies + sum(one.pop('tally').numpy() for one in found)
            self.rollouts.append([_newest(one, MOST_TOKENS // len(found)) for one in found])

    def state_dict(self) -> dict[str, Any]:
        """Plain data of what is kept."""
        return dict(rollouts=[list(some) for some in self.rollouts],
                    tallies=torch.from_numpy(self.tallies.copy()), log=dict(self.log))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a result of :meth:`state_dict`."""
        self.forget_recent()
        self.rollouts = deque(state['rollouts'], ROLLOUTS)
        self.tallies = state['tallies'].numpy().copy()
        self.log = dict(state['log'])

    def tally(self) -> NDArray[np.float64]:
        """How often guesses were made and right, with a prior; see :data:`SHAPE`."""
        return PRIOR + self.tallies + sum(one['tally'].numpy() for one in self.recent)

    def add(self, responses: Texts, tally: NDArray[np.float64], counts: Sequence[int]) -> None:
        """Remember the newest responses of a rollout; the counts are how often a sample was in a
        pass, and how many tokens were fed and kept in all."""
        tokens, lengths, draws = responses
        self.recent.append(_newest(dict(
            tokens=torch.from_numpy(tokens), lengths=torch.from_numpy(lengths),
            draws=None if draws is None else torch.from_numpy(draws),
            tally=torch.from_numpy(tally.astype(np.float32)), counts=torch.tensor(counts)),
            MOST_TOKENS // self.turns))
        self._sorted.clear()

    def observations(self, greedy: bool) -> Packed:
        """All observations, for :func:`look_up`; for greedy samples with ages below
        :data:`.ngrams.MIDDLE` in place of draws."""
        if greedy not in self._sorted:
            everything = [one for some in [*self.rollouts, self.recent] for one in some]
            total = sum(len(one['tokens']) for one in everything)
            seen, parts = 0, []
            for one in everything:
                tokens, lengths = one['tokens'].numpy().astype(np.int64), one['lengths'].numpy()
                draws = np.full(len(tokens), MIDDLE)
                if greedy:
                    draws = (seen + np.arange(len(tokens), dtype=np.uint64)) * MIDDLE // total
                elif one['draws'] is not None:
                    draws = one['draws'].numpy().astype(np.uint64)
                parts.append(pack(hash_contexts(windows_of(tokens, lengths)), draws, tokens))
                seen += len(tokens)
            self._sorted[greedy] = sort_observations(*parts)
        return self._sorted[greedy]


def _newest(one: dict[str, Any], most: int) -> dict[str, Any]:
    """What remains of a rollout in memory without its oldest responses, so that the others have at
    most so many tokens."""
    ends = one['lengths'].cumsum(dim=0)
    if not len(ends) or ends[-1] <= most:
        return one
    last = int((ends[-1] - ends > most).sum())
    left = {name: None if one[name] is None else one[name][int(ends[last]):].clone()
            for name in ('tokens', 'draws')}
    return one | left | dict(lengths=one['lengths'][last + 1:].clone())
