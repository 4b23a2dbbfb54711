# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Samples responses with prompt and image computed and cached once for all G samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.prompt_encoder import EncodedPrompt
from mmdpad.models.heads.shared_prefix import NAME, prompt_positions, row_states
from mmdpad.registry import ROLLOUTS
from mmdpad.structures import fill

from .agreement import check_agreement
from .decoding import Decoding, rotary_table
from .engine import DrawingEngine
from .guessing import MAX_GUESS, Guesser, GuessMemory, pass_cost
from .prefix_cache import PrefillRow, PrefixCache
from .sampling import NonFiniteLogits, draw_tokens


@ROLLOUTS.register_module()
class SharedPrefixRollout(DrawingEngine):
    """Samples like :class:`HFRollout`, several times as fast. It uses the same draws, and so gives
    the same tokens up to rounding.

    A prompt runs through the model once, without padding, and its keys and values are cached once
    (:class:`.prefix_cache.PrefixCache`). Finished samples leave the batch once they make up a
    quarter of it.

    Args:
        prefill_tokens: Prompts run through the model together up to this many tokens (a longer
            one runs alone).
        cuda_graphs: On a GPU, capture decoding steps as CUDA graphs. Not possible with quantized or
            unknown layers, which the log says. It has not been run on a GPU yet.
        records_log_probs: Record the log-probabilities during sampling. The log then shows how much
            they differ from those of the update (``mismatch/...``).
    """

    def __init__(self, prefill_tokens: int = 16384, cuda_graphs: bool = True,
                 records_log_probs: bool = False, max_guess: int = MAX_GUESS) -> None:
        self.prefill_tokens = prefill_tokens
        self.records_log_probs = records_log_probs
        self.checked = False
        self.max_guess = max_guess
        self.memory = GuessMemory()
        self.decoding = Decoding(cuda_graphs)

    def generate(self, head: VLMReasoningHead, prompts: Sequence[EncodedPrompt], group_size: int,
                 max_new_tokens: int, draws: Tensor | None,
                 warp: LogitsProcessorList) -> tuple[Tensor, Tensor | None]:
        """See :class:`DrawingEngine`.

        Raises:
            ValueError: The head has another attention implementation.
            RuntimeError: At the first call, see :func:`.agreement.check_agreement`.
        """
        used = head.model.model.language_model.config._attn_implementation
        if used != NAME:
            raise ValueError(
                f'`SharedPrefixRollout` should have a policy with `attn_implementation={NAME!r}`, '
                f"but got {used!r}; set that, or `rollout_engine=dict(type='HFRollout')`")
        if not self.checked:
            self.checked = True
            recording = SharedPrefixRollout(self.prefill_tokens, False, True, max_guess=0)
            recording.checked = True
            check_agreement(recording, head, prompts)
        prefilled = self._prefill(head, prompts)
        with self.decoding.of(head):
            return self._decode(head, prefilled, self._start_guesser(
                head, prompts, group_size, max_new_tokens, draws), TokenChoice(head, draws, warp))

    def _start_guesser(self, head: VLMReasoningHead, prompts: Sequence[EncodedPrompt],
                       group_size: int, max_new_tokens: int, draws: Tensor | None) -> Guesser:
        texts = [prompt.input_ids.flatten().numpy() for prompt in prompts]
        texts = [text[~np.isin(text, head.vision_token_ids)] for text in texts]
        return Guesser(
            self.memory, texts, group_size, None if draws is None else draws.cpu().numpy(),
            max_new_tokens, head.end_tokens, self.max_guess, pass_cost(head.model))

    def _decode(self, head: VLMReasoningHead, prefilled: tuple[PrefixCache, Tensor, Tensor],
                guesser: Guesser, choice: TokenChoice) -> tuple[Tensor, Tensor | None]:
        """See :meth:`generate`."""
        cache, logits, starts = prefilled
        size, length = guesser.ids.shape
        cache.start_samples(size // len(cache.lengths))
        logits, starts = (x.repeat_interleave(size // len(x), dim=0) for x in (logits, starts))
        rotary = rotary_table(head.model, int(starts.max()) + length + self.max_guess + 1)
        logp = None
        if self.records_log_probs and choice.draws is not None:
            logp = torch.zeros(size, length, device=head.device)
        # Of the samples in the cache: number, whether it goes on, tokens in the pass.
        samples, going = np.arange(size), np.ones(size, dtype=bool)
        counts = going.astype(np.int64)
        rows, offsets = samples, np.zeros_like(samples)
        while True:
            before = guesser.lengths[samples]
            places = (before[rows] + offsets).clip(max=length - 1)
            where = self._to(head.device, samples[rows], places)
            tokens, highest = choice(logits, *where)
            # The one transfer of a pass; -1 where logits are not finite.
            chosen = np.full((len(samples), offsets.max() + 1), -1)
            chosen[rows, offsets] = tokens.where(highest.isfinite(), -1).cpu().numpy()
            kept = np.zeros_like(counts)
            kept[going] = guesser.verify(samples[going], counts[going], chosen[going])
            last = chosen[np.arange(len(samples)), kept - 1]
            if (faults := going & (last < 0)).any():
                row = samples[faults][0]
                raise NonFiniteLogits(int(row), torch.from_numpy(
                    guesser.ids[row, :guesser.lengths[row] - 1]))
            self._stream(chosen, kept)
            if logp is not None:
                stays, = self._to(head.device, np.nonzero(offsets < kept[rows])[0])
                logp[where[0][stays], where[1][stays]] = choice.log_probs(logits[stays],
                                                                          tokens[stays])
            if before.any():
                cache.advance(self._to(head.device, kept)[0] if (kept != 1).any() else 1)
            going &= ~np.isin(last, head.end_tokens) & (guesser.lengths[samples] < length)
            if not going.any():
                break
            if going.sum() <= self.decoding.shrink_at * len(samples):
                left, = self._to(head.device, np.nonzero(going)[0])
                cache.keep(left)
                samples, starts, going = samples[going], starts[left], going[going]
            counts = np.zeros(len(samples), dtype=np.int64)
            counts[going] = 1 + guesser.guess(samples[going])
            fed = counts
            if self.decoding.full_grids:  # ended samples, and some after the guesses, are ignored
                fed = np.full(len(samples), 2**int(counts.max() - 1).bit_length())
            rows = np.repeat(np.arange(len(samples)), fed)
            offsets = np.arange(len(rows)) - np.repeat(fed.cumsum() - fed, fed)
            places = guesser.lengths[samples[rows]] - 1 + offsets
            tokens, = self._to(head.device, guesser.ids[samples[rows], places.clip(0, length - 1)])
            cache.make_room(int(fed.max()))
            feed = cache.feed(tokens, fed.tolist() if (fed != fed[0]).any() else None)
            logits = self.decoding(cache, feed, starts, rotary)
        guesser.finish()
        longest = int(guesser.lengths.max())
        ids, = self._to(head.device, guesser.ids[:, :longest])
        return ids, None if logp is None else logp[:, :longest]

    def _stream(self, chosen: NDArray[np.int64], kept: NDArray[np.int64]) -> None:
        """Hand the first ``kept`` (A,) of the tokens (A, W) to the streamer, place by place."""
        if self.streamer is not None:
            for offset in range(kept.max()):
                self.streamer(torch.from_numpy(chosen[kept > offset, offset]))

    @staticmethod
    def _to(device: torch.device, *arrays: NDArray[np.int64]) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(np.stack(arrays)).to(device))

    def _prefill(self, head: VLMReasoningHead,
                 prompts: Sequence[EncodedPrompt]) -> tuple[PrefixCache, Tensor, Tensor]:
        """Return the cache of B prompts, and the logits (B, V) and positions (B,) after them."""
        cache = PrefixCache([len(prompt) for prompt in prompts], head.device)
        logits, starts = [], []
        for numbers in fill(cache.lengths, self.prefill_tokens):
            part = prompts[numbers.start:numbers.stop]
            row = PrefillRow(cache, numbers.start, len(part))
            places = [prompt_positions(head.model, prompt) for prompt in part]
            states = row_states(
                head.model, head.encode_images(part),
                torch.cat([prompt.input_ids for prompt in part]).to(head.device),
                torch.cat(places, dim=1).to(head.device), row)
            last = torch.tensor(row.lengths, device=head.device).cumsum(dim=0) - 1
            logits.append(head.model.lm_head(states[last]))
            starts += [int(place.max()) + 1 for place in places]
        return cache, torch.cat(logits), torch.tensor(starts, device=head.device)


class TokenChoice:
    """Chooses the next token of each sample.

    Args:
        head: The policy; its vision tokens are never chosen.
        draws, warp: See :meth:`DrawingEngine.generate`.
    """

    def __init__(self, head: VLMReasoningHead, draws: Tensor | None,
                 warp: LogitsProcessorList) -> None:
        self.forbidden = torch.tensor(head.vision_token_ids, device=head.device)
        self.draws = draws
        self.warp = warp

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
