# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What every engine is called with, and what ours do around the model's forward passes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.prompt_encoder import EncodedPrompt
from mmdpad.models.non_finite import NonFiniteError

from .sampling import (
    NonFiniteLogits,
    Responses,
    Sampling,
    cut_responses,
    evaluating,
    uniform_draws,
    warpers,
)


class RolloutEngine(ABC):
    """Samples responses.

    Attributes:
        records_log_probs: Whether sampled responses come with the engine's log-probabilities.
        copies_weights: Whether the engine has a copy of the policy's weights, which have to be
            handed over by their names; preflight then checks that they can be.
        watcher: See :meth:`watched`.
    """

    records_log_probs = False
    copies_weights = False
    watcher: Callable[[Tensor], None] | None = None

    def check_policy(self, head: VLMReasoningHead) -> None:
        """Raise a ValueError if this engine cannot sample a policy; called once, at the start."""
        return

    @contextmanager
    def watched(self, watcher: Callable[[Tensor], None]) -> Iterator[None]:
        """While this lasts, ``watcher`` is called with the newest tokens (A,), long, of the A
        samples that go on, as soon as they are chosen. What it raises ends the sampling. For one
        sample; an engine that works elsewhere (vLLM) never calls it."""
        self.watcher = watcher
        try:
            yield
        finally:
            self.watcher = None

    @torch.no_grad()
    def __call__(self,
                 head: VLMReasoningHead,
                 prompts: Sequence[EncodedPrompt],
                 group_size: int = 1,
                 temperature: float = 1.0,
                 max_new_tokens: int = 1024,
                 top_p: float = 1.0,
                 top_k: int = 0,
                 seed: int | Sequence[int] = 0,
                 prompt_numbers: Sequence[int] | None = None) -> Responses:
        """Generate G responses to each of B prompts.

        Args:
            head: The policy. Its mode (train or eval) is kept.
            prompts: B prompts.
            group_size: G.
            temperature: 0 for the greedy response, else that of the sampling.
            max_new_tokens: Limit of a response's length.
            top_p, top_k: Nucleus and top-k sampling; 1.0 and 0 leave the distribution as it is.
            seed: Non-negative integer, or several. What is drawn for a response depends on it, the
                prompt's number and the response's place in its group, so neither on the batch nor
                on the process that a prompt is in. The global generators are untouched.
            prompt_numbers: A number >= 0 for each prompt; default 0 ... B - 1.
        """
        numbers = range(len(prompts)) if prompt_numbers is None else prompt_numbers
        return self.sample(head, prompts, Sampling(group_size, temperature, max_new_tokens, top_p,
                                                   top_k, seed, numbers))

    @abstractmethod
    def sample(self, head: VLMReasoningHead, prompts: Sequence[EncodedPrompt],
               how: Sampling) -> Responses:
        """:meth:`__call__` with its defaults filled in; without gradients."""


class DrawingEngine(RolloutEngine):
    """Draws tokens from the policy module itself; a subclass says how logits come from it."""

    def sample(self, head: VLMReasoningHead, prompts: Sequence[EncodedPrompt],
               how: Sampling) -> Responses:
        """See :class:`RolloutEngine`.

        Raises:
            NonFiniteError: Logits of allowed tokens are NaN or infinite.
        """
        draws, warp = None, LogitsProcessorList()
        if how.temperature > 0:
            draws = uniform_draws(how.seed, how.prompt_numbers, how.group_size,
                                  how.max_new_tokens).to(head.device)
            warp = warpers(how.temperature, how.top_k, how.top_p)
        with evaluating(head.model):
            try:
                ids, logp = self.generate(head, prompts, how.group_size, how.max_new_tokens, draws,
                                          warp)
            except NonFiniteLogits as found:
                prompt = found.row // how.group_size
                raise NonFiniteError(
                    f'The logits of token {len(found.ids) + 1} of the response to prompt {prompt} '
                    f'of the batch are not finite. '
                    f'{head.explain_non_finite([prompts[prompt]], found.ids[None])}',
                    prompt) from None
        return cut_responses(ids, head.end_tokens, head.pad_token, logp)

    @abstractmethod
    def generate(self, head: VLMReasoningHead, prompts: Sequence[EncodedPrompt], group_size: int,
                 max_new_tokens: int, draws: Tensor | None,
                 warp: LogitsProcessorList) -> tuple[Tensor, Tensor | None]:
        """Tokens of N = B * G responses, with anything behind the end of a response.

        Args:
            head: The policy, in evaluation mode.
            prompts, group_size, max_new_tokens: As of :class:`RolloutEngine`.
            draws: (N, max_new_tokens) float64 in [0, 1), see :func:`draw_tokens`; None for the
                likeliest tokens.
            warp: What departs from the model's own distribution before a token is drawn.

        Returns:
            (N, R) long, R at most ``max_new_tokens``, and the log-probabilities (N, R) of
            :class:`Responses`, or None.

        Raises:
            NonFiniteLogits: Logits of allowed tokens are NaN or infinite.
        """
