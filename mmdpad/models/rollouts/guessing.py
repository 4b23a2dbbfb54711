# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Guesses the next tokens of samples, for a forward pass to verify; without a second model.

A token is a function of the logits and of one uniform draw, which is known beforehand
(:func:`.sampling.draw_tokens`). Two sources use this:

- **n-grams**: what followed the same last tokens before, with a similar draw, in the last rollouts,
  in other samples of the batch, and in the prompt;
- **the last pass**: what it chose after a wrong guess, with the draws of these places (as in Jacobi
  decoding): a wrong coordinate does not change the next one much.

How often each kind of guess was right is counted, and a guess is made if the time it may save is
worth more than the time it may waste.

Notation: N samples, M of them at a time; R the longest response; C kinds of contexts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import all_gather_object
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from transformers import PreTrainedModel

from mmdpad.models.heads.families import family_of

from .ngrams import (
    CODES,
    CONTEXTS,
    DRAWS,
    LAST,
    LONGEST,
    MIDDLE,
    Ints,
    Packed,
    hash_contexts,
    look_up,
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
_FIRST_CELLS = np.arange(len(CONTEXTS)) * CODES
FADING = 0.8
"""What counts of earlier rollouts are worth after another one."""
TOO_MANY = 0.7
"""No guesses are made if only those with a higher chance than this would save time: looking for
them takes as long as they save."""
SORT_AT = 100
"""New observations are sorted in once there is one for so many that are sorted."""
MAX_GUESS = 15
"""Most guesses for a sample in one pass."""


def _prior() -> NDArray[np.float64]:
    """Counts to start with: guesses made, and those that were right."""
    codes = np.arange(CELLS) % CODES
    tried = np.full(SHAPE, 2.0)
    right = 0.7 * tried
    share = np.where(codes > 4, (codes - 4) / 6, codes / (codes + 0.5))
    right[..., 0] = 2 * share[:, None, None]
    return np.stack([tried, right])


PRIOR = _prior()


class Rates(NamedTuple):
    """Rough properties of a kind of device: bytes read and operations per second, and the seconds
    that it takes to start the operations of a layer."""

    bytes: float
    operations: float
    layer: float


RATES = dict(cpu=Rates(1e10, 4e10, 3e-4), gpu=Rates(2e12, 4e14, 2e-4))
GUESSING = 1.5e-3
"""Seconds that it takes to guess for a pass, and to arrange different numbers of tokens."""


def estimate_pass_cost(model: PreTrainedModel) -> float:
    """Estimate how many tokens take as long as a pass over no tokens, which reads all weights and
    starts all operations; 0 if guessing takes longer.

    The estimate does not depend on the machine or its load, so that the same run makes the same
    passes anywhere.
    """
    text = model.config.get_text_config()
    weights = sum(p.numel() for p in family_of(model).language(model).layers.parameters())
    weights += text.hidden_size * text.vocab_size
    rates = RATES['cpu' if model.device.type == 'cpu' else 'gpu']
    seconds = weights * model.dtype.itemsize / rates.bytes + text.num_hidden_layers * rates.layer
    return max(seconds - GUESSING, 0.0) * rates.operations / (2 * weights)


class GuessMemory:
    """What guesses are based on: the last rollouts, and how often guesses were right.

    A training keeps what its rollouts sampled by :meth:`share`, which is then equal on all
    processes. Whatever else was sampled since (an evaluation) is remembered only until
    :meth:`forget_recent`.

    Attributes:
        log: Of what was last shared: ``speculation/acceptance_length``, the mean number of tokens
            that a sample gets in a pass, and ``speculation/acceptance_rate``, the share of guesses
            that were right (0 without any).
    """

    def __init__(self) -> None:
        self.rollouts: deque[list[dict[str, Any]]] = deque(maxlen=ROLLOUTS)
        self.recent: deque[dict[str, Any]] = deque(maxlen=ROLLOUTS)
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
            self.log = {'speculation/acceptance_length': kept / max(turns, 1),
                        'speculation/acceptance_rate': (kept - turns) / max(fed - turns, 1)}
            self.tallies = FADING * self.tallies + sum(one.pop('tally').numpy() for one in found)
            self.rollouts.append(found)

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

    def add(self, ids: Ints, lengths: Ints, draws: NDArray[np.uint64] | None,
            tally: NDArray[np.float64], counts: Sequence[int]) -> None:
        """Remember responses (N, R) of ``lengths`` (N,) with their draws (N, R); the counts are how
        often a sample was in a pass, and how many tokens were fed and kept in all."""
        mask = np.arange(ids.shape[1]) < lengths[:, None]
        self.recent.append(dict(
            tokens=torch.from_numpy(ids[mask].astype(np.int32)),
            lengths=torch.from_numpy(lengths.astype(np.int32)),
            draws=None if draws is None else torch.from_numpy(draws[mask].astype(np.int32)),
            tally=torch.from_numpy(tally.astype(np.float32)), counts=torch.tensor(counts)))
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


class Guesser:
    """Guesses tokens of the samples of one rollout.

    Args:
        memory: What to start from, to which :meth:`finish` adds this rollout; None for neither.
        prompts: The tokens of B prompts, without those of images.
        group_size: Samples of each prompt, in order.
        draws: (N, R) uniform draws, or None for greedy samples.
        length: R.
        ends: Tokens that end a response.
        max_guess: Maximum number of guesses for a sample in one pass.
        pass_cost: What a pass costs besides its tokens, in tokens; 0 for no guesses.

    Attributes:
        ids: (N, R) tokens of the samples, then their guesses.
        lengths: (N,) number of tokens.
        passes, turns, fed: Number of passes, of samples in them, and of tokens in them.
    """

    def __init__(self, memory: GuessMemory | None, prompts: Sequence[Ints], group_size: int,
                 draws: NDArray[np.float64] | None, length: int, ends: Sequence[int],
                 max_guess: int, pass_cost: float) -> None:
        self.memory, self.max_guess, self.pass_cost = memory, max_guess, pass_cost
        if memory is None or not pass_cost:
            self.memory, self.max_guess = None, 0
        self.ends, self.group_size = np.array(ends), group_size
        self._texts = np.zeros((0, LONGEST + length), dtype=np.int64)
        self.lengths, self.owners = np.zeros((2, 0), dtype=np.int64)
        self.draws: NDArray[np.uint64] | None = None
        # What the last pass chose for places, and the token before, -1 for none.
        self.chosen, self.after = np.zeros((2, 0, length), dtype=np.int64)
        self.seen: Packed | None = None  # until it is needed
        self.prior = PRIOR if self.memory is None else self.memory.tally()
        self.tally = np.zeros_like(self.prior)
        self._considered: list[tuple[Ints, ...]] = []
        self._unsorted: list[tuple[Ints, Ints, Ints, NDArray[np.uint64]]] = []
        self.passes = self.turns = self.fed = 0
        self.add(prompts, draws)

    def add(self, prompts: Sequence[Ints], draws: NDArray[np.float64] | None) -> None:
        """Add samples of further prompts."""
        first, size = len(self.lengths), len(prompts) * self.group_size
        self._texts = np.pad(self._texts, ((0, size), (0, 0)))
        self.ids = self._texts[:, LONGEST:]
        self.windows = sliding_window_view(self._texts, LONGEST, axis=1)
        self.lengths = np.pad(self.lengths, (0, size))
        self.owners = 1 + np.arange(first + size) // self.group_size
        if draws is not None:
            new = (draws * 2**DRAWS).astype(np.uint64)
            self.draws = new if self.draws is None else np.concatenate([self.draws, new])
        self.chosen, self.after = (np.pad(x, ((0, size), (0, 0)), constant_values=-1)
                                   for x in (self.chosen, self.after))
        lengths, tokens = np.array([len(prompt) for prompt in prompts]), np.concatenate(prompts)
        self._observe(windows_of(tokens, lengths), tokens,
                      np.repeat(self.owners[first::self.group_size], lengths),
                      np.full(len(tokens), MIDDLE))

    def _observe(self, windows: Ints, tokens: Ints, owners: Ints,
                 draws: NDArray[np.uint64]) -> None:
        if self.max_guess:
            self._unsorted.append((windows, tokens, owners, draws))

    def _sort(self) -> None:
        """Sort in what was observed since the last guesses, unless it is little."""
        if self.seen is None:
            assert self.memory is not None
            self.seen = self.memory.observations(self.draws is None)
        new = len(CONTEXTS) * sum(len(tokens) for _, tokens, *_ in self._unsorted)
        if new > len(self.seen) / SORT_AT:
            windows, tokens, owners, draws = map(np.concatenate, zip(*self._unsorted, strict=True))
            observed = pack(hash_contexts(windows, owners), draws, tokens)
            observed.sort()
            self.seen = sort_observations(self.seen[2:-2], observed)
            self._unsorted = []

    def _draws_at(self, samples: Ints, places: Ints) -> NDArray[np.uint64]:
        if self.draws is None:
            return np.full(len(samples), LAST)
        return self.draws[samples, places]

    def guess(self, samples: Ints) -> Ints:
        """Guess the tokens that follow those of samples (A,), whose newest token is not an end.

        Returns:
            (A,) number of guesses, which are in ``ids``.
        """
        counts = np.zeros(len(samples), dtype=np.int64)
        self.passes += 1
        self.turns += len(samples)
        self.fed += len(samples)
        least = len(samples) / (self.pass_cost + len(samples))
        if least > TOO_MANY or not self.max_guess:
            return counts
        self._sort()
        rate = self.prior + self.tally
        rate = rate[1] / rate[0]
        rows, hope = np.arange(len(samples)), np.ones(len(samples))
        for depth in range(self.max_guess):
            fits = self.lengths[samples[rows]] + depth < self.ids.shape[1] - 1
            rows, hope = rows[fits], hope[fits]
            if not len(rows):
                break
            who = samples[rows]
            places = self.lengths[who] + depth
            cells, kinds, same, by_text, by_pass = self._candidates(who, places, rate)
            self._considered.append((who, places, cells, kinds, same, by_text, by_pass))
            chances = rate[cells, kinds, same]
            trusted = (kinds > 0) & (chances[:, 1] > chances[:, 0])
            hope = hope * np.where(trusted, chances[:, 1], chances[:, 0])
            tokens = np.where(trusted, by_pass, by_text)
            going = (hope >= least) & ~np.isin(tokens, self.ends)
            rows, hope = rows[going], hope[going]
            self.ids[samples[rows], places[going]] = tokens[going]
            counts[rows] += 1
        self.fed += int(counts.sum())
        return counts

    def _candidates(self, who: Ints, places: Ints, rate: NDArray[np.float64]) -> tuple[Ints, ...]:
        """Of each place (M,): cell, kind and whether both agree (see :data:`SHAPE`), the token by
        n-grams, and that by the last pass."""
        windows = self.windows[who, places]
        assert self.seen is not None
        tokens, codes = look_up(self.seen, hash_contexts(windows, self.owners[who]),
                                self._draws_at(who, places))
        cells = np.where(codes > 0, codes + _FIRST_CELLS, 0)
        best = rate[cells, 0, 0, 0].argmax(axis=1)
        rows = np.arange(len(who))
        cell, token = cells[rows, best], tokens[rows, best]
        chosen = self.chosen[who, places]
        kinds = np.where(chosen < 0, 0, 1 + (self.after[who, places] == windows[:, -1]))
        return cell, kinds, ((cell > 0) & (chosen == token)).astype(np.int64), token, chosen

    def verify(self, samples: Ints, counts: Ints, chosen: Ints) -> Ints:
        """Keep the tokens that a pass chose, as far as the guesses before them were right.

        Args:
            samples: (A,).
            counts: (A,) number of their tokens in the pass.
            chosen: (A, W) what was chosen after each of them; arbitrary beyond ``counts``.

        Returns:
            (A,) how many tokens are new.
        """
        steps = np.arange(chosen.shape[1])
        places = self.lengths[samples][:, None] + steps
        rows = np.broadcast_to(samples[:, None], places.shape)
        stays = np.ones(places.shape, dtype=bool)
        self.chosen[samples] = -1
        if chosen.shape[1] > 1:
            inside = steps < counts[:, None]
            guesses = self.ids[rows, np.minimum(places, self.ids.shape[1] - 1)]
            stays[:, 1:] = ((guesses == chosen)[:, :-1] & ~np.isin(chosen[:, :-1], self.ends)
                            & inside[:, 1:])
            stays = np.logical_and.accumulate(stays, axis=1)
            left = inside & ~stays
            self.chosen[rows[left], places[left]] = chosen[left]
            self.after[rows[left], places[left]] = guesses[:, :-1][left[:, 1:]]
        kept = stays.sum(axis=1)
        self.ids[rows[stays], places[stays]] = chosen[stays]
        self.lengths[samples] += kept
        self._count()
        new = (rows[stays], places[stays])
        draws = (np.full(len(new[0]), min(MIDDLE + np.uint64(self.passes), LAST))
                 if self.draws is None else self.draws[new])
        self._observe(self.windows[new], self.ids[new], self.owners[new[0]], draws)
        return kept

    def _count(self) -> None:
        """Tally the considered guesses whose places have tokens now."""
        if not self._considered:
            return
        who, places, cells, kinds, same, *guesses = np.concatenate(
            [np.stack(some) for some in self._considered], axis=1)
        known = places < self.lengths[who]
        truth = self.ids[who[known], places[known]]
        flat = ((cells * 3 + kinds) * 2 + same)[known] * 2
        alone = (cells * 12)[known & (kinds > 0)]  # for the choice among cells
        right = [guess[known] == truth for guess in guesses]
        index = np.concatenate([flat, flat + 1, alone])
        found = np.concatenate([*right, right[0][kinds[known] > 0]])
        for row, weights in enumerate((None, found)):
            self.tally[row] += np.bincount(index, weights, self.tally[row].size).reshape(SHAPE)
        self._considered = []

    def finish(self) -> None:
        """Remember the samples."""
        if self.memory is None:
            return
        kept = int(self.lengths.sum()) - len(self.lengths)  # the first come from the prompts
        self.memory.add(self.ids, self.lengths, self.draws, self.tally,
                        (self.turns, self.fed, kept))
