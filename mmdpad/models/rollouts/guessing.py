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

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .guess_memory import MOST_TOKENS, PRIOR, SHAPE, GuessMemory, Texts
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

_FIRST_CELLS = np.arange(len(CONTEXTS)) * CODES
TOO_MANY = 0.7
"""No guesses are made if only those with a higher chance than this would save time: looking for
them takes as long as they save."""
SORT_AT = 100
"""New observations are sorted in once there is one for so many that are sorted."""
MAX_GUESS = 15
"""Most guesses for a sample in one pass."""




def saves_time(pass_cost: float) -> bool:
    """Whether guesses are made at least for a sample that is alone, by what a pass costs."""
    return 1 / (pass_cost + 1) <= TOO_MANY


class Guesser:
    """Guesses tokens of the samples of one rollout or stream.

    Args:
        memory: What to start from, to which :meth:`finish` adds this rollout; None for neither, and
            for no guesses.
        prompts: The tokens of B prompts, without those of images.
        group_size: Samples of each prompt, in order.
        draws: (N, R) uniform draws, or None for greedy samples.
        length: R.
        ends: Tokens that end a response.
        max_guess: Maximum number of guesses for a sample in one pass.
        pass_cost: What a pass costs besides its tokens, in tokens.

    Attributes:
        ids: (N, R) tokens of the samples that have not left, then their guesses.
        lengths: (N,) number of tokens.
        passes, turns, fed: Number of passes, of samples in them, and of tokens in them.
    """

    def __init__(self, memory: GuessMemory | None, prompts: Sequence[Ints], group_size: int,
                 draws: NDArray[np.float64] | None, length: int, ends: Sequence[int],
                 max_guess: int, pass_cost: float) -> None:
        self.memory, self.max_guess, self.pass_cost = memory, max_guess, pass_cost
        if memory is None:
            self.max_guess = 0
        self.ends, self.group_size = np.array(ends), group_size
        self._keep(np.zeros((0, LONGEST + length), dtype=np.int64))
        self.lengths, self.owners = np.zeros((2, 0), dtype=np.int64)
        self.draws: NDArray[np.uint64] | None = None
        # What the last pass chose for places, and the token before, -1 for none.
        self.chosen, self.after = np.zeros((2, 0, length), dtype=np.int64)
        self.seen: Packed | None = None  # until it is needed
        self.prior = PRIOR if self.memory is None else self.memory.tally()
        self.tally = np.zeros_like(self.prior)
        self._considered: list[tuple[Ints, ...]] = []
        self._unsorted: list[tuple[Ints, Ints, Ints, NDArray[np.uint64]]] = []
        self._young: list[Packed] = []  # of the sorted ones, those of this rollout
        self._left: deque[Texts] = deque()
        self._prompts = 0
        self.passes = self.turns = self.fed = self._tokens = 0
        self.add(prompts, draws)

    def add(self, prompts: Sequence[Ints], draws: NDArray[np.float64] | None) -> None:
        """Add samples of further prompts."""
        first, size = len(self.lengths), len(prompts) * self.group_size
        self._keep(np.pad(self._texts, ((0, size), (0, 0))))
        self.lengths = np.pad(self.lengths, (0, size))
        new_owners = 1 + self._prompts + np.arange(size) // self.group_size
        self.owners = np.concatenate([self.owners, new_owners])
        self._prompts += len(prompts)
        if draws is not None:
            new = (draws * 2**DRAWS).astype(np.uint64)
            self.draws = new if self.draws is None else np.concatenate([self.draws, new])
        self.chosen, self.after = (np.pad(x, ((0, size), (0, 0)), constant_values=-1)
                                   for x in (self.chosen, self.after))
        lengths, tokens = np.array([len(prompt) for prompt in prompts]), np.concatenate(prompts)
        self._observe(windows_of(tokens, lengths), tokens,
                      np.repeat(self.owners[first::self.group_size], lengths),
                      np.full(len(tokens), MIDDLE))

    def leave(self, count: int) -> None:
        """Let the first samples leave, which have ended. The others are renumbered."""
        self._remember(count)
        self._keep(self._texts[count:])
        self.lengths, self.owners, self.chosen, self.after = (
            x[count:] for x in (self.lengths, self.owners, self.chosen, self.after))
        if self.draws is not None:
            self.draws = self.draws[count:]

    def _remember(self, count: int) -> None:
        """Note the responses of the first samples, and drop the oldest that are not needed."""
        if self.memory is None:
            return
        self._left.append(Texts.of(self.ids[:count], self.lengths[:count],
                                   None if self.draws is None else self.draws[:count]))
        total = sum(len(some.tokens) for some in self._left)
        while total - len(self._left[0].tokens) >= MOST_TOKENS:
            total -= len(self._left.popleft().tokens)

    def _keep(self, texts: Ints) -> None:
        """Set the samples' tokens (N, LONGEST + R), which start with zeros."""
        self._texts = texts
        self.ids = texts[:, LONGEST:]
        self.windows = sliding_window_view(texts, LONGEST, axis=1)

    def _observe(self, windows: Ints, tokens: Ints, owners: Ints,
                 draws: NDArray[np.uint64]) -> None:
        if self.max_guess:
            self._unsorted.append((windows, tokens, owners, draws))

    def _sort(self) -> None:
        """Sort in what was observed since the last guesses, unless it is little. If it becomes
        much, what this rollout observed first is dropped."""
        assert self.memory is not None
        if self.seen is None:
            self.seen = self.memory.observations(self.draws is None)
        new = len(CONTEXTS) * sum(len(tokens) for _, tokens, *_ in self._unsorted)
        if new > len(self.seen) / SORT_AT:
            windows, tokens, owners, draws = map(np.concatenate, zip(*self._unsorted, strict=True))
            observed = pack(hash_contexts(windows, owners), draws, tokens)
            observed.sort()
            self._unsorted = []
            self._young.append(observed)
            older, newer = self.seen, [observed]
            if sum(map(len, self._young)) > len(CONTEXTS) * MOST_TOKENS:
                older, newer = self.memory.observations(self.draws is None), self._young
                self._young = []
            self.seen = sort_observations(older[2:-2], *newer)

    def _draws_at(self, samples: Ints, places: Ints) -> NDArray[np.uint64]:
        if self.draws is None:
            return np.full(len(samples), LAST)
        return self.draws[samples, places]

    def _least_chance(self, count: int) -> float:
        """How likely a guess has to be right to save time in a pass of so many samples."""
        return count / (self.pass_cost + count)

    def may_guess(self, count: int) -> bool:
        """Whether guesses in a pass of so many samples may save time. They need to know what the
        pass before chose."""
        return self.max_guess > 0 and self._least_chance(count) <= TOO_MANY

    def guess(self, samples: Ints) -> Ints:
        """Guess the tokens that follow those of samples (A,), whose newest token is not an end.

        Returns:
            (A,) number of guesses, which are in ``ids``.
        """
        counts = np.zeros(len(samples), dtype=np.int64)
        self.passes += 1
        self.turns += len(samples)
        self.fed += len(samples)
        if not self.may_guess(len(samples)):
            return counts
        least = self._least_chance(len(samples))
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
        """Of each place (M,): cell, kind and whether both agree (see :data:`.guess_memory.SHAPE`),
        the token by n-grams, and that by the last pass."""
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
        rows, places = self._next_places(samples, chosen.shape[1])
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
        kept = self._store(samples, chosen, stays, self.passes)
        self._count()
        return kept

    def record(self, samples: Ints, chosen: Ints) -> Ints:
        """Keep what passes over one token of each sample, without guesses, chose one after the
        other, up to each sample's end. It is as if each pass had been guessed for and verified.

        Args:
            samples: (A,), whose newest token is not an end.
            chosen: (A, S), by pass; negative where logits were not finite, which ends a sample.

        Returns:
            (A,) how many tokens are new.
        """
        stops = np.isin(chosen, self.ends) | (chosen < 0)
        stays = stops.cumsum(axis=1) - stops == 0
        self.chosen[samples] = -1
        kept = self._store(samples, chosen, stays, self.passes + 1 + np.arange(chosen.shape[1]))
        self.passes += int(kept.max())
        self.turns += int(kept.sum())
        self.fed += int(kept.sum())
        return kept

    def _next_places(self, samples: Ints, count: int) -> tuple[Ints, Ints]:
        """(A, count) samples, and the places after their tokens."""
        places = self.lengths[samples][:, None] + np.arange(count)
        return np.broadcast_to(samples[:, None], places.shape), places

    def _store(self, samples: Ints, chosen: Ints, stays: NDArray[np.bool_],
               passes: int | Ints) -> Ints:
        """Store the tokens (A, W) that stay, chosen by passes of these numbers, (W,) or one of all;
        return how many (A,)."""
        new = tuple(x[stays] for x in self._next_places(samples, chosen.shape[1]))
        self.ids[new] = chosen[stays]
        kept = stays.sum(axis=1)
        self.lengths[samples] += kept
        self._tokens += int(kept.sum())
        if self.draws is None:
            ages = np.minimum(MIDDLE + np.asarray(passes, dtype=np.uint64), LAST)
            draws = np.broadcast_to(ages, chosen.shape)[stays]
        else:
            draws = self.draws[new]
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
        self._remember(len(self.lengths))
        kept = self._tokens - self._prompts * self.group_size  # the first come from the prompts
        self.memory.add(Texts.join(self._left), self.tally, (self.turns, self.fed, kept))
