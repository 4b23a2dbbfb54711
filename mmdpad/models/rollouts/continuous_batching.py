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
from transformers import LogitsProcessorList, TemperatureLogitsWarper

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.encoded_prompt import EncodedPrompt

from .decoding import Decoding, rotary_table
from .guessing import Guesser
from .prefix_cache import PrefixCache
from .sampling import NonFiniteLogits, draw_tokens

LOOKAHEAD = 4
"""Number of batches that may be started before the first one is complete."""
REFILL_AT = 1 / 8
"""Prompts enter once this share of the samples has ended: a pass of few prompts takes as long."""


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
    """

    def __init__(self, head: VLMReasoningHead, batches: Iterable[Batch], group_size: int,
                 length: int, warp: LogitsProcessorList, max_samples: int | None,
                 prefill: Callable[[Sequence[EncodedPrompt]], tuple[PrefixCache, Tensor, Tensor]],
                 make_guesser: Callable[[Batch], Guesser], decoding: Decoding,
                 records_log_probs: bool = False,
                 streamer: Callable[[Tensor], None] | None = None) -> None:
        self.head, self.group_size, self.length = head, group_size, length
        self.device = head.device  # transformers looks for it among all parameters
        self.max_samples = max(max_samples or 0, group_size)
        self._fits_batches = max_samples is None
        self.prefill, self.make_guesser, self.decoding = prefill, make_guesser, decoding
        self.streamer = streamer
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
        """Run the samples' newest tokens, and guesses, through the model."""
        assert self.cache is not None and self.guesser is not None
        if (self._batches is None and not self._waiting
                and self.going.sum() <= self.decoding.shrink_at * len(self.samples)):
            left, = self._to(np.nonzero(self.going)[0])
            self.cache.keep(left)
            self.samples, self.starts = self.samples[self.going], self.starts[left]
            self.going = self.going[self.going]
        counts = np.zeros(len(self.samples), dtype=np.int64)
        counts[self.going] = 1 + self.guesser.guess(self.samples[self.going])
        if not self._verify(counts):
            self.cache.drop_guesses()
            self._verify(counts.clip(max=1))

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
        self.cache.make_room(int(fed.max()))
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
        last = chosen[np.arange(len(which)), kept - 1]
        if (faults := going & (last < 0)).any():
            row = samples[faults][0]
            raise NonFiniteLogits(int(row - self._held[0].start), torch.from_numpy(
                guesser.ids[row, :guesser.lengths[row] - 1]))
        if self.streamer is not None:
            for offset in range(kept.max()):
                self.streamer(torch.from_numpy(chosen[kept > offset, offset]))
        if self.logp is not None:
            stays, = self._to(np.nonzero(offsets < kept[rows])[0])
            self.logp[where[0][stays], where[1][stays]] = self.choice.log_probs(
                logits[stays], tokens[stays])
        self.going[which] = (going & ~(last[:, None] == self.ends).any(axis=1)
                             & (guesser.lengths[samples] < self.length))
        return kept

    def _to(self, *arrays: NDArray[np.int64]) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(np.stack(arrays)).to(self.device))


def _spread(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The row of each token, and its number in the row."""
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts)


class TokenChoice:
    """Chooses the next token of each sample.

    Args:
        head: The policy; its vision tokens are never chosen.
        draws, warp: See :meth:`.engine.DrawingEngine.generate`.
    """

    def __init__(self, head: VLMReasoningHead, draws: Tensor | None,
                 warp: LogitsProcessorList) -> None:
        self.forbidden = torch.tensor(head.vision_token_ids, device=head.device)
        self.draws = draws
        self.warp = warp

    def add(self, draws: Tensor | None) -> None:
        """Add the draws of further samples."""
        if draws is not None:
            self.draws = draws if self.draws is None else torch.cat([self.draws, draws])

    def __call__(self, logits: Tensor, samples: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Choose tokens number ``steps`` (N,) of the samples (N,) from their logits (N, V).

        Returns:
            The tokens (N,), long, and the highest scores (N,), which are not finite if no token can
            be chosen.
        """
        scores = logits.float().index_fill(1, self.forbidden, -torch.inf)
        if self.draws is None:
            highest, tokens = scores.max(dim=-1)
            return tokens, highest
        scores = self.warp(None, scores)  # type: ignore[arg-type]
        highest = scores.amax(dim=-1)
        return draw_tokens(scores, self.draws[samples, steps], highest), highest

    def log_probs(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities (A,), float32, of tokens (A,) under logits (A, V); see `Responses`."""
        scores = logits.float().index_fill(1, self.forbidden, -torch.inf)
        for warper in self.warp:
            if isinstance(warper, TemperatureLogitsWarper):
                scores = warper(None, scores)
        return scores.log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
