# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Samples responses with prompt and image computed and cached once for all G samples."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import groupby

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.encoded_prompt import EncodedPrompt
from mmdpad.models.heads.packed_attention import PackedGroup
from mmdpad.models.heads.shared_prefix import NAME, prompt_positions, row_states
from mmdpad.registry import ROLLOUTS
from mmdpad.structures import fill
from mmdpad.utils.number_checks import check_number

from .agreement import check_agreement
from .continuous_batching import Batch, ContinuousBatch
from .decoding import Decoding
from .engine import DrawingEngine
from .guess_memory import GuessMemory
from .guessing import MAX_GUESS, Guesser, saves_time
from .pass_cost import estimate_pass_cost
from .prefix_cache import PrefillRow, PrefixCache
from .recurrent_states import NO_GUESSES
from .sampling import Responses, Sampling, cut_responses, evaluating, no_responses


@ROLLOUTS.register_module()
class SharedPrefixRollout(DrawingEngine):
    """Samples like :class:`HFRollout`, several times as fast. It uses the same draws, and so gives
    the same tokens up to rounding.

    A prompt runs through the model once, without padding, and its keys and values are cached once
    (:class:`.prefix_cache.PrefixCache`). Neighboring conversations that continue one prompt
    (:attr:`.EncodedPrompt.first`) share the pass over it; the cache has a copy for each. Samples
    that have ended are replaced by those of waiting prompts
    (:class:`.continuous_batching.ContinuousBatch`); once none waits, they leave.

    Args:
        prefill_tokens: Prompts run through the model together up to this many tokens (a longer
            one runs alone).
        cuda_graphs: On a GPU, capture decoding steps as CUDA graphs. Not possible with quantized or
            unknown layers, which the log says. It has not been run on a GPU yet.
        records_log_probs: Record the log-probabilities during sampling. The log then shows how much
            they differ from those of the update (``mismatch/...``).
        max_samples: Maximum number of samples that are decoded at a time, at least those of one
            prompt; further prompts wait. None for all samples of a rollout, and for those of the
            largest batch so far of an evaluation.
        max_guess: Most tokens that are guessed for a sample and verified in the same pass
            (:mod:`.guessing`): the tokens stay the same, in fewer passes. How many are guessed
            depends on what was right so far and on what a pass costs. 0 turns it off. A guess
            follows from the tokens before it, so with guesses each pass on a GPU is waited for,
            and without, one in :data:`.continuous_batching.CHECK_EVERY`.
        pass_cost: What a forward pass costs besides its tokens, in tokens: the more, the more is
            guessed. None for an estimate by the model's size and the kind of device: a tiny model
            on a CPU hardly guesses, since that takes as long as its passes.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(self, prefill_tokens: int = 16384, cuda_graphs: bool = True,
                 records_log_probs: bool = False, max_guess: int = MAX_GUESS,
                 max_samples: int | None = None, pass_cost: float | None = None) -> None:
        check_number('prefill_tokens', prefill_tokens, 'at least 1', lambda n: n >= 1, True)
        self.max_guess = check_number('max_guess', max_guess, f'in [0, {MAX_GUESS}] (0: off)',
                                      lambda n: 0 <= n <= MAX_GUESS, True)
        self.max_samples = max_samples
        if max_samples is not None:
            self.max_samples = check_number('max_samples', max_samples, 'at least 1 or None',
                                            lambda n: n >= 1, True)
        if pass_cost is not None:
            check_number('pass_cost', pass_cost, 'above 0 or None', lambda n: 0 < n < math.inf)
        self.prefill_tokens = prefill_tokens
        self.records_log_probs = records_log_probs
        self.checked = False
        self.pass_cost = pass_cost
        self.memory = GuessMemory()
        self.decoding = Decoding(cuda_graphs)

    def expect_conversations(self, images: int, tokens: int) -> None:
        """See :class:`RolloutEngine`; a conversation has as many turns as images at most."""
        self.memory = GuessMemory(turns=images)

    def memory_of(self, head: VLMReasoningHead) -> GuessMemory | None:
        """See :class:`RolloutEngine`."""
        guesses = self.max_guess and not head.is_recurrent and saves_time(self._cost(head))
        return self.memory if guesses else None

    def _cost(self, head: VLMReasoningHead) -> float:
        return self.pass_cost or estimate_pass_cost(head.model)

    def sample_stream(self, head: VLMReasoningHead,
                      batches: Iterable[tuple[Sequence[EncodedPrompt], Sequence[int]]],
                      how: Sampling) -> Iterator[Responses]:
        """See :class:`RolloutEngine`; where a sample ends, the next prompt enters."""
        held: deque[Sequence[EncodedPrompt]] = deque()

        def take() -> Iterator[Batch]:
            for prompts, numbers in batches:
                if prompts:
                    self._check(head, prompts)
                held.append(prompts)
                yield Batch(prompts, self.draw(head, how._replace(prompt_numbers=numbers))
                            if prompts else None)

        with (evaluating(head.model),
              closing(self._run(head, take(), how.group_size, how.max_new_tokens,
                                self.warp(how))) as results):
            while True:
                with self.explaining(head, held, how):
                    result = next(results, None)
                if result is None:
                    return
                held.popleft()
                ids, logp = result
                yield (cut_responses(ids, head.end_tokens, head.pad_token, logp) if len(ids) else
                       no_responses(head.device))

    def generate(self, head: VLMReasoningHead, prompts: Sequence[EncodedPrompt], group_size: int,
                 max_new_tokens: int, draws: Tensor | None,
                 warp: LogitsProcessorList) -> tuple[Tensor, Tensor | None]:
        """See :class:`DrawingEngine`.

        Raises:
            ValueError: The head has another attention implementation.
            RuntimeError: At the first call, see :func:`.agreement.check_agreement`.
        """
        self._check(head, prompts)
        (ids, logp), = self._run(head, [Batch(prompts, draws)], group_size, max_new_tokens, warp)
        return ids, logp

    def _check(self, head: VLMReasoningHead, prompts: Sequence[EncodedPrompt]) -> None:
        used = head.family.language(head.model).config._attn_implementation
        if used != NAME:
            raise ValueError(
                f'`SharedPrefixRollout` should have a policy with `attn_implementation={NAME!r}`, '
                f"but got {used!r}; set that, or `rollout_engine=dict(type='HFRollout')`")
        if not self.checked:
            self.checked = True
            recording = SharedPrefixRollout(self.prefill_tokens, False, True, max_guess=0)
            recording.checked = True
            check_agreement(recording, head, prompts)

    def _run(self, head: VLMReasoningHead, batches: Iterable[Batch], group_size: int,
             max_new_tokens: int,
             warp: LogitsProcessorList) -> Generator[tuple[Tensor, Tensor | None], None, None]:
        """Yield the result of :meth:`generate` for each batch."""
        if self.max_guess and head.is_recurrent:
            self.decoding.tell(NO_GUESSES)

        def make_guesser(batch: Batch) -> Guesser:
            texts, draws = batch.for_guesser(head)
            return Guesser(self.memory_of(head), texts, group_size, draws, max_new_tokens,
                           head.end_tokens, self.max_guess, self._cost(head))

        with self.decoding.of(head):
            yield from ContinuousBatch(
                head, batches, group_size, max_new_tokens, warp, self.max_samples,
                lambda prompts: self._prefill(head, prompts), make_guesser, self.decoding,
                self.records_log_probs, self.streamer)

    def _prefill(self, head: VLMReasoningHead,
                 prompts: Sequence[EncodedPrompt]) -> tuple[PrefixCache, Tensor, Tensor]:
        """Return the cache of B prompts, and the logits (B, V) and positions (B,) after them."""
        cache = PrefixCache([len(prompt) for prompt in prompts], head.device)
        logits, starts = [], []
        for numbers in fill(cache.lengths, self.prefill_tokens):
            groups = _by_first(prompts[numbers.start:numbers.stop])
            row = PrefillRow(cache, numbers.start, [
                PackedGroup(len(first), [len(prompt) - len(first) for prompt in started])
                for first, started in groups])
            tokens, places, shown = [], [], []
            for first, started in groups:
                start = prompt_positions(head.model, first)
                rests = [prompt_positions(head.model, prompt)[..., len(first):]
                         for prompt in started]
                places += [start, *rests]
                starts += [int(place.max()) + 1 for place in rests or [start]]
                tokens += [first.input_ids, *(prompt.input_ids[len(first):] for prompt in started)]
                shown += [first, *(reply for prompt in started for reply in prompt.replies)]
            states = row_states(head.model, head.encode_images(shown),
                                torch.cat(tokens).to(head.device),
                                torch.cat(places, dim=-1).to(head.device), row)
            logits.append(head.model.lm_head(states[row.last]))
        return cache, torch.cat(logits), torch.tensor(starts, device=head.device)


def _by_first(prompts: Sequence[EncodedPrompt]) -> list[tuple[EncodedPrompt, list[EncodedPrompt]]]:
    """Group neighbors that continue one first prompt: that prompt, and what continues it. Any other
    prompt comes alone."""
    groups: list[tuple[EncodedPrompt, list[EncodedPrompt]]] = []
    for _, members in groupby(prompts, key=lambda prompt: id(prompt.first)):
        run = list(members)
        if run[0].first is not None and len(run) > 1:
            groups.append((run[0].first, run))
        else:
            groups += [(prompt, []) for prompt in run]
    return groups
