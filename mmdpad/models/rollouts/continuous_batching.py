# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Samples responses to a stream of prompts: where one ends, the next prompt enters."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessorList

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.encoded_prompt import EncodedPrompt

from .decoding import Decoding, rotary_table
from .guessing import Guesser
from .prefix_cache import PrefixCache
from .sampling import NonFiniteLogits
from .token_choice import TokenChoice

LOOKAHEAD = 4
"""Number of batches that may be started before the first one is complete."""
REFILL_AT = 1 / 8
"""Prompts enter once this share of the samples has ended: a pass of few prompts takes as long."""
CHECK_EVERY = 8
"""Number of steps on a GPU after which the host looks at which samples have ended. A look makes the
device wait, estimated at a quarter of a captured step of a 3B model (not measured); the end of the
last sample is noticed (n - 1) / 2 steps late on average. For responses of some 200 tokens, the sum
of both is least at n = 8 to 10."""


class Batch(NamedTuple):
    """Some prompts of a stream, whose responses are returned together.

    Attributes:
        prompts: B prompts; there may be none.
        draws: (B * G, R) float64, see :meth:`.engine.DrawingEngine.generate`.
    """

    prompts: Sequence[EncodedPrompt]
    draws: Tensor | None

    def for_guesser(self, head: VLMReasoningHead) -> tuple[list[NDArray[np.int64]],
                                                           NDArray[np.float64] | None]:
        """The prompts' tokens without those of images, and the draws, for a :class:`Guesser`."""
        texts = [prompt.input_ids.flatten().numpy() for prompt in self.prompts]
        return ([text[~np.isin(text, head.vision_token_ids)] for text in texts],
                None if self.draws is None else self.draws.cpu().numpy())


class ContinuousBatch:
    """Responses to a stream of prompts, G of each, at most some number at a time.

    Which samples share a pass depends on the lengths of the responses only, never on a clock.

    Where nothing is guessed, a GPU takes up to ``check_every`` steps before the host looks at their
    tokens (:meth:`_run_ahead`). Guesses need the tokens of the step before, so a step for which the
    guesser may guess (:meth:`.Guesser.may_guess`) is looked at on its own, and so is each one with
    a streamer.

    Args:
        head: The policy, in evaluation mode.
        batches: The prompts. At most :data:`LOOKAHEAD` + 1 batches are held at a time.
        group_size: G.
        length: Maximum length R of a response.
        warp: See :meth:`.engine.DrawingEngine.generate`.
        max_samples: Maximum number of samples at a time, at least one prompt's; None for as many
            as the largest batch so far has.
        prefill: Runs prompts through the model: returns their cache, and logits (B, V) and
            positions (B,) after them.
        make_guesser: Makes the guesser of the first prompts, with their draws.
        decoding: Runs decoding steps.
        records_log_probs: Whether to return log-probabilities.
        streamer: Gets the new tokens.
        check_every: See above. The host learns that a sample has ended, and lets others enter, so
            many steps later at most. By default, :data:`CHECK_EVERY` on a GPU, and 1 on a CPU,
            where a look takes no time.
    """

    def __init__(self, head: VLMReasoningHead, batches: Iterable[Batch], group_size: int,
                 length: int, warp: LogitsProcessorList, max_samples: int | None,
                 prefill: Callable[[Sequence[EncodedPrompt]], tuple[PrefixCache, Tensor, Tensor]],
                 make_guesser: Callable[[Batch], Guesser], decoding: Decoding,
                 records_log_probs: bool = False,
                 streamer: Callable[[Tensor], None] | None = None,
                 check_every: int | None = None) -> None:
        self.head, self.group_size, self.length = head, group_size, length
        self.device = head.device  # transformers looks for it among all parameters
        self.max_samples = max(max_samples or 0, group_size)
        self._fits_batches = max_samples is None
        self.prefill, self.make_guesser, self.decoding = prefill, make_guesser, decoding
        self.streamer = streamer
        self.check_every = check_every or (1 if self.device.type == 'cpu' else CHECK_EVERY)
        self.choice, self.ends = TokenChoice(head, None, warp), np.array(head.end_tokens)
        self.guesser: Guesser | None = None
        self.logp: Tensor | None = None
        self._records = records_log_probs
        self._batches: Iterator[Batch] | None = iter(batches)
        self._held: deque[range] = deque()  # the samples of each batch
        self._waiting: deque[tuple[int, EncodedPrompt]] = deque()  # with their first sample
        self._count = 0
        # Of the samples in the cache: number, whether it goes on, position of its first token.
        self.cache: PrefixCache | None = None
        self.samples, self.going = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
        self.starts = torch.zeros(0, dtype=torch.long, device=self.device)
        self.rotary = rotary_table(head.model, 1)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the tokens (B * G, at most R) of each batch, and their log-probabilities."""
        self._admit()
        while self._held:
            if self._is_complete(self._held[0]):
                yield self._collect(self._held.popleft())
            else:
                self._step()
            self._admit()
        if self.guesser is not None:
            self.guesser.finish()

    def _is_complete(self, batch: range) -> bool:
        waits = bool(self._waiting) and self._waiting[0][0] < batch.stop
        active = self.samples[self.going]
        return not waits and not ((active >= batch.start) & (active < batch.stop)).any()

    def _collect(self, batch: range) -> tuple[Tensor, Tensor | None]:
        if not batch:
            return torch.zeros(0, 0, dtype=torch.long, device=self.device), None
        assert self.guesser is not None
        rows = slice(batch.start, batch.stop)
        longest = int(self.guesser.lengths[rows].max())
        ids, = self._to(self.guesser.ids[rows, :longest])
        return ids, None if self.logp is None else self.logp[rows, :longest]

    def _pull(self) -> None:
        """Take batches from the stream as long as there is room for their prompts."""
        while (self._batches is not None and len(self._held) <= LOOKAHEAD
               and (not self._count or len(self._waiting) < self._room())):
            batch = next(self._batches, None)
            if batch is None:
                self._batches = None
                return
            self._let_go()
            numbers = range(self._count, self._count + len(batch.prompts) * self.group_size)
            self._held.append(numbers)
            if not numbers:
                continue
            if self._fits_batches:  # the first may have few that were not answered before
                self.max_samples = max(self.max_samples, len(numbers))
            if self.guesser is None:
                self.guesser = self.make_guesser(batch)
            else:
                self.guesser.add(*batch.for_guesser(self.head))
            self._count = numbers.stop
            self.choice.add(batch.draws)
            if self._records and batch.draws is not None:
                new = torch.zeros(len(numbers), self.length, device=self.device)
                self.logp = new if self.logp is None else torch.cat([self.logp, new])
            self._waiting += zip(numbers[::self.group_size], batch.prompts, strict=True)

    def _let_go(self) -> None:
        """Forget the samples of batches that were returned, and count from the next one."""
        gone = self._held[0].start if self._held else self._count
        if not gone:
            return
        assert self.guesser is not None
        self.guesser.leave(gone)
        self.choice.leave(gone)
        if self.logp is not None:
            self.logp = self.logp[gone:]
        self._held = deque(range(batch.start - gone, batch.stop - gone) for batch in self._held)
        self._waiting = deque((number - gone, prompt) for number, prompt in self._waiting)
        self._count -= gone
        # Those in the cache have ended. They may have any number, but no place beyond its length,
        # by which the cache gets its room.
        assert self.cache is not None
        ended, = self._to(np.nonzero(self.samples < gone)[0])
        self.cache.places.index_fill_(0, ended, 0)
        self.samples = (self.samples - gone).clip(min=0)

    def _room(self) -> int:
        """The number of prompts that may enter."""
        return (self.max_samples - int(self.going.sum())) // self.group_size

    def _admit(self) -> None:
        """Let waiting prompts enter, and choose the first tokens of their samples."""
        self._pull()
        while self._waiting and (count := min(len(self._waiting), self._room())):
            if (self.going.any() and count < len(self._waiting)
                    and count * self.group_size < REFILL_AT * self.max_samples):
                return
            numbers, prompts = zip(*(self._waiting.popleft() for _ in range(count)), strict=True)
            cache, logits, starts = self.prefill(prompts)
            logits, starts = (x.repeat_interleave(self.group_size, dim=0)
                              for x in (logits, starts))
            if self.cache is None or not self.going.any():
                self.cache, rows = cache, np.arange(len(starts))
                cache.start_samples(self.group_size)
                self.samples, self.going = np.zeros_like(rows), np.ones(len(rows), dtype=bool)
                self.starts = starts
            else:
                ended = np.nonzero(~self.going)[0].tolist()
                rows = np.array(self.cache.replace(ended, cache, self.group_size))
                more = len(self.cache.owners) - len(self.samples)
                self.samples, self.going = (np.pad(x, (0, more)) for x in
                                            (self.samples, self.going))
                self.starts = torch.nn.functional.pad(self.starts, (0, more))
                self.starts[self._to(rows)[0]] = starts
                self.going[rows] = True
            self.samples[rows] = np.add.outer(numbers, np.arange(self.group_size)).ravel()
            self._lengthen(int(starts.max()))
            ones = np.ones(len(rows), dtype=np.int64)
            self._take(rows, ones, ones, logits)
            self._pull()

    def _lengthen(self, start: int) -> None:
        """Let the table of rotary embeddings reach to the end of all samples and guesses."""
        assert self.guesser is not None
        needed = start + self.length + self.guesser.max_guess + 1
        if needed > len(self.rotary[0]):
            self.rotary = rotary_table(self.head.model, needed)

    def _step(self) -> None:
        """Run the samples' newest tokens, and guesses, through the model; perhaps several times."""
        assert self.cache is not None and self.guesser is not None
        if (self._batches is None and not self._waiting
                and self.going.sum() <= self.decoding.shrink_at * len(self.samples)):
            left, = self._to(np.nonzero(self.going)[0])
            self.cache.keep(left)
            self.samples, self.starts = self.samples[self.going], self.starts[left]
            self.going = self.going[self.going]
        if (steps := self._steps_ahead()) > 1:
            self._run_ahead(steps)
            return
        counts = np.zeros(len(self.samples), dtype=np.int64)
        counts[self.going] = 1 + self.guesser.guess(self.samples[self.going])
        if not self._verify(counts):
            self.cache.drop_guesses()
            self._verify(counts.clip(max=1))

    def _steps_ahead(self) -> int:
        """How many steps can be taken before the host needs to know what they chose."""
        assert self.guesser is not None
        if (self.check_every == 1 or self.streamer is not None
                or self.guesser.may_guess(int(self.going.sum()))):
            return 1
        room = self.length - self.guesser.lengths[self.samples[self.going]]
        return min(self.check_every, int(room.min()))

    def _run_ahead(self, steps: int) -> None:
        """Take steps of one token of each sample, and then look at what they chose. What a sample
        chose after its end is dropped."""
        assert self.cache is not None and self.guesser is not None
        fed = np.ones_like(self.samples) if self.decoding.full_grids else self.going.astype(int)
        which = np.nonzero(fed)[0]
        tokens, logp = self._launch(fed, which, steps)
        chosen = tokens.cpu().numpy()  # the one transfer
        samples, going = self.samples[which], self.going[which]
        kept = np.zeros_like(samples)
        kept[going] = self.guesser.record(samples[going], chosen[going])
        self._keep(which, kept, chosen)
        if self.logp is not None and logp is not None:
            rows, offsets = _spread(kept)
            places = self.guesser.lengths[samples] - kept
            at, of = self._to(samples[rows], places[rows] + offsets), self._to(rows, offsets)
            self.logp[at] = logp[of]
        late = np.zeros_like(self.samples)
        late[which[going]] = kept[going] - steps
        if late.any():
            self.cache.advance(self._to(late)[0])

    def _launch(self, fed: NDArray[np.int64], which: NDArray[np.int64],
                steps: int) -> tuple[Tensor, Tensor | None]:
        """Take steps without waiting for the device in between.

        Args:
            fed: (A,) number of tokens of each sample in a step, 0 or 1. Samples that have ended may
                have one, which is ignored and not kept.
            which: (N,) where it is 1.
            steps: S, at most the tokens that each sample may still get.

        Returns:
            (N, S) tokens, -1 where logits are not finite, and their log-probabilities, if these are
            recorded.
        """
        cache, guesser = self.cache, self.guesser
        assert cache is not None and guesser is not None
        numbers = self.samples[which]
        tokens, samples = self._to(guesser.ids[numbers, guesser.lengths[numbers] - 1], numbers)
        kept = 1 if self.going.all() else self._to(self.going.astype(int))[0]
        counts = None if fed.all() else fed.tolist()
        chosen, logp = [], []
        for step in range(steps):
            self._make_room(1 + step)
            feed = cache.feed(tokens, counts)
            logits = self.decoding(cache, feed, self.starts, self.rotary)
            cache.advance(kept)
            tokens, highest = self.choice(logits, samples, feed.spread(cache.places))
            is_finite = highest.isfinite()
            chosen.append(tokens.where(is_finite, -1))
            tokens = tokens.where(is_finite, 0)
            if self.logp is not None:
                logp.append(self.choice.log_probs(logits, tokens))
        return torch.stack(chosen, dim=1), torch.stack(logp, dim=1) if logp else None

    def _make_room(self, width: int) -> None:
        """Make room in the cache for ``width`` more tokens of each sample. It has all tokens but
        the newest."""
        assert self.cache is not None and self.guesser is not None
        stored = int(self.guesser.lengths[self.samples].max()) - 1
        most = self.length + self.guesser.max_guess if self.decoding.full_grids else None
        self.cache.make_room(stored + width, most)

    def _verify(self, counts: NDArray[np.int64]) -> bool:
        """Run so many tokens (A,) of each sample through the model, and keep what they lead to;
        return False if some logits are not finite, which may be due to a guess."""
        assert self.cache is not None and self.guesser is not None
        fed = counts
        if self.decoding.full_grids:  # ended samples, and some after the guesses, are ignored
            fed = np.full(len(counts), 2**int(counts.max() - 1).bit_length())
        rows, offsets = _spread(fed)
        numbers = self.samples[rows]
        places = (self.guesser.lengths[numbers] - 1 + offsets).clip(0, self.length - 1)
        tokens, = self._to(self.guesser.ids[numbers, places])
        self._make_room(int(fed.max()))
        feed = self.cache.feed(tokens, fed.tolist() if (fed != fed[0]).any() else None)
        logits = self.decoding(self.cache, feed, self.starts, self.rotary)
        kept = self._take(np.arange(len(counts)), counts, fed, logits)
        if kept is None:
            return False
        self.cache.advance(self._to(kept)[0] if (kept != 1).any() else 1)
        return True

    def _take(self, which: NDArray[np.int64], counts: NDArray[np.int64],
              fed: NDArray[np.int64], logits: Tensor) -> NDArray[np.int64] | None:
        """Choose the next tokens of samples in the cache.

        Args:
            which: (A',) indices in the cache.
            counts: (A',) number of their tokens in the pass, 0 for those that have ended.
            fed: (A',) the same with tokens that are ignored.
            logits: (sum of ``fed``, V).

        Returns:
            (A',) the number of new tokens; None, and nothing changes, if logits of a pass with
            guesses are not finite.
        """
        guesser = self.guesser
        assert guesser is not None
        samples, going = self.samples[which], self.going[which]
        rows, offsets = _spread(fed)
        places = (guesser.lengths[samples][rows] + offsets).clip(max=self.length - 1)
        where = self._to(samples[rows], places)
        tokens, highest = self.choice(logits, *where)
        # The one transfer of a pass; -1 where logits are not finite.
        chosen = np.full((len(which), offsets.max() + 1), -1)
        chosen[rows, offsets] = tokens.where(highest.isfinite(), -1).cpu().numpy()
        if fed.max() > 1 and (chosen[rows, offsets] < 0)[going[rows]].any():
            return None
        kept = np.zeros_like(counts)
        kept[going] = guesser.verify(samples[going], counts[going], chosen[going])
        self._keep(which, kept, chosen)
        if self.logp is not None:
            stays, = self._to(np.nonzero(offsets < kept[rows])[0])
            self.logp[where[0][stays], where[1][stays]] = self.choice.log_probs(
                logits[stays], tokens[stays])
        return kept

    def _keep(self, which: NDArray[np.int64], kept: NDArray[np.int64],
              chosen: NDArray[np.int64]) -> None:
        """See which samples end with their new tokens.

        Args:
            which: (A',) indices in the cache.
            kept: (A',) number of new tokens, which the guesser has; 0 of those that have ended.
            chosen: (A', W), of each sample first its new tokens.

        Raises:
            NonFiniteLogits: A last new token is negative.
        """
        assert self.guesser is not None
        samples, going = self.samples[which], self.going[which]
        last = chosen[np.arange(len(which)), kept - 1]
        if (faults := going & (last < 0)).any():
            row = samples[faults][kept[faults].argmin()]
            raise NonFiniteLogits(int(row - self._held[0].start), torch.from_numpy(
                self.guesser.ids[row, :self.guesser.lengths[row] - 1]))
        if self.streamer is not None:
            for offset in range(kept.max()):
                self.streamer(torch.from_numpy(chosen[kept > offset, offset]))
        self.going[which] = (going & ~(last[:, None] == self.ends).any(axis=1)
                             & (self.guesser.lengths[samples] < self.length))

    def _to(self, *arrays: NDArray[np.int64]) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(np.stack(arrays)).to(self.device))


def _spread(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The row of each token, and its number in the row."""
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts)
