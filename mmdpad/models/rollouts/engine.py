# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The interface of rollout engines, and the base class of those that draw tokens themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.prompt_encoder import EncodedPrompt
from mmdpad.models.non_finite import NonFiniteError

from .guessing import GuessMemory
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
        records_log_probs: Whether sampled responses include the engine's log-probabilities.
        copies_weights: Whether the engine has its own copy of the policy's weights, which are
            handed over by name; preflight then checks that this works. In a training under
            ``FSDP2Strategy`` the policy is sharded when this engine is called; others get it whole.
        samples_elsewhere: Whether the engine computes nothing in this process, so that a rollout
            needs no memory here.
        holds_weights: Whether the weights that the engine has are the current ones, see
            :meth:`holding_weights`.
        repeats_prompts: Whether a prompt is computed once per response, not once per group; the
            cost estimate asks this.
        streamer: The current streamer, see :meth:`streaming`.
        memory: What the engine guesses tokens from; it belongs to the state of a training. None if
            it does not guess.
    """

    records_log_probs = False
    copies_weights = False
    samples_elsewhere = False
    holds_weights = False
    repeats_prompts = False
    streamer: Callable[[Tensor], None] | None = None
    memory: GuessMemory | None = None

    def check_policy(self, head: VLMReasoningHead) -> None:
        """Raise a ValueError if this engine cannot sample a policy. Called once, at the start."""
        return

    def hand_over(self, head: VLMReasoningHead) -> None:
        """Take the policy's current weights now, if the engine samples elsewhere; a rollout does so
        on its own. All processes take part."""
        return

    @contextmanager
    def holding_weights(self) -> Iterator[None]:
        """Within the block, the weights stay those of the last :meth:`hand_over`, and each process
        may sample any number of batches, or none (an evaluation)."""
        self.holds_weights = True
        try:
            yield
        finally:
            self.holds_weights = False

    @contextmanager
    def streaming(self, streamer: Callable[[Tensor], None]) -> Iterator[None]:
        """Stream tokens to ``streamer`` within the block.

        It is called with the newest tokens (A,), long, of the A active samples as soon as they are
        chosen. An exception in it ends the sampling. It is meant for a single sample; an engine
        that runs elsewhere (vLLM) never calls it.
        """
        self.streamer = streamer
        try:
            yield
        finally:
            self.streamer = None

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
            head: The policy. Its mode (train or eval) does not change.
            prompts: B prompts.
            group_size: G.
            temperature: The sampling temperature; 0 for the greedy response.
            max_new_tokens: Maximum length of a response.
            top_p, top_k: Nucleus and top-k sampling; 1.0 and 0 disable them.
            seed: Non-negative integer, or several. The draws for a response depend only on the
                seed, the prompt's number and the response's index in its group, not on the batch or
                process of the prompt. The global generators are untouched.
            prompt_numbers: A number >= 0 for each prompt; default 0 ... B - 1.
        """
        numbers = range(len(prompts)) if prompt_numbers is None else prompt_numbers
        return self.sample(head, prompts, Sampling(group_size, temperature, max_new_tokens, top_p,
                                                   top_k, seed, numbers))

    def submit(self, head: VLMReasoningHead, prompts: Sequence[EncodedPrompt],
               **sampling: Any) -> Future[Responses]:
        """Start to sample with the current weights, and return a future of the responses.

        An engine that samples elsewhere overrides this: it has taken its copy of the weights when
        the call returns, and samples in the background while the policy is updated. Its futures
        finish in the order of the calls, and an error of the sampling is raised by their
        ``result()``. :meth:`__call__` may come in between, with newer weights (a validation), and
        must not change what pending futures return. By default, everything happens within this
        call, and the future is finished.

        Args:
            head, prompts: See :meth:`__call__`.
            **sampling: Its other arguments.
        """
        future: Future[Responses] = Future()
        future.set_result(self(head, prompts, **sampling))
        return future

    @abstractmethod
    def sample(self, head: VLMReasoningHead, prompts: Sequence[EncodedPrompt],
               how: Sampling) -> Responses:
        """:meth:`__call__` with its defaults filled in; without gradients."""


class DrawingEngine(RolloutEngine):
    """Draws tokens from the policy module itself; a subclass computes the logits."""

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
        """Generate the tokens of N = B * G responses; tokens after the end of a response may be
        anything.

        Args:
            head: The policy, in evaluation mode.
            prompts, group_size, max_new_tokens: See :class:`RolloutEngine`.
            draws: (N, max_new_tokens) float64 in [0, 1), see :func:`draw_tokens`; None for the
                most likely tokens.
            warp: Processors that change the model's own distribution before a token is drawn.

        Returns:
            (N, R) long, R at most ``max_new_tokens``, and the log-probabilities (N, R) of
            :class:`Responses`, or None.

        Raises:
            NonFiniteLogits: Logits of allowed tokens are NaN or infinite.
        """
