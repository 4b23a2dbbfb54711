# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Samples responses with prompt and image computed and cached once for all G samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
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
                 records_log_probs: bool = False) -> None:
        self.prefill_tokens = prefill_tokens
        self.records_log_probs = records_log_probs
        self.checked = False
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
            recording = SharedPrefixRollout(self.prefill_tokens, False, records_log_probs=True)
            recording.checked = True
            check_agreement(recording, head, prompts)
        prefilled = self._prefill(head, prompts)
        with self.decoding.of(head):
            return self._decode(head, prefilled, group_size, max_new_tokens,
                                TokenChoice(head, draws, warp))

    def _decode(self, head: VLMReasoningHead, prefilled: tuple[PrefixCache, Tensor, Tensor],
                group_size: int, max_new_tokens: int,
                choice: TokenChoice) -> tuple[Tensor, Tensor | None]:
        """See :meth:`generate`."""
        cache, logits, starts = prefilled
        cache.start_samples(group_size)
        logits, starts = (x.repeat_interleave(group_size, dim=0) for x in (logits, starts))
        rotary = rotary_table(head.model, int(starts.max()) + max_new_tokens)
        ends = torch.tensor(head.end_tokens, device=head.device)
        ids = ends.new_zeros(len(starts), max_new_tokens)
        logp = None
        if self.records_log_probs and choice.draws is not None:
            logp = torch.zeros(ids.shape, device=head.device)
        samples, goes_on = torch.arange(len(ids), device=head.device), torch.ones_like(starts) > 0
        for step in range(max_new_tokens):
            tokens, highest = choice(logits, samples, step)
            ids[samples, step] = tokens
            # One number, so that a step waits for the device only once: how many samples continue,
            # or NaN if the logits of one are not finite.
            faults = highest.where(goes_on, 0.0) * 0
            goes_on &= ~torch.isin(tokens, ends)
            active = float(goes_on.sum() + faults.sum())
            if math.isnan(active):
                row = int(samples[faults.isnan().nonzero()[0, 0]])
                raise NonFiniteLogits(row, ids[row, :step])
            if self.streamer is not None:
                self.streamer(tokens)
            if logp is not None:
                logp[samples, step] = choice.log_probs(logits, tokens)
            if not active:
                return ids[:, :step + 1], None if logp is None else logp[:, :step + 1]
            if active <= self.decoding.shrink_at * len(samples):
                kept = goes_on.nonzero()[:, 0]
                cache.keep(kept)
                samples, tokens, starts = samples[kept], tokens[kept], starts[kept]
                goes_on = goes_on[kept]
            if step + 1 < max_new_tokens:
                cache.make_room(1)
                logits = self.decoding(cache, cache.feed(tokens), starts, rotary)
                cache.advance(1)
        return ids, logp

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

    def __call__(self, logits: Tensor, samples: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Choose token number ``step`` of the samples (A,) from their logits (A, V).

        Returns:
            The tokens (A,), long, and the highest scores (A,), which are not finite if no token can
            be chosen.
        """
        scores = logits.float().index_fill(1, self.forbidden, -torch.inf)
        if self.draws is None:
            highest, tokens = scores.max(dim=-1)
            return tokens, highest
        scores = self.warp(None, scores)  # type: ignore[arg-type]
        highest = scores.amax(dim=-1)
        return draw_tokens(scores, self.draws[samples, step], highest), highest

    def log_probs(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities (A,), float32, of tokens (A,) under logits (A, V); see `Responses`."""
        scores = logits.float().index_fill(1, self.forbidden, -torch.inf)
        for warper in self.warp:
            if isinstance(warper, TemperatureLogitsWarper):
                scores = warper(None, scores)
        return scores.log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
