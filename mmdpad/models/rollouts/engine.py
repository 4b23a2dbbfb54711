# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The interface of rollout engines, and the base class of those that draw tokens themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.encoded_prompt import EncodedPrompt
from mmdpad.models.non_finite import NonFiniteError

from .guess_memory import GuessMemory
from .sampling import (
    NonFiniteLogits,
    Responses,
    Sampling,
    cut_responses,
    evaluating,
    no_responses,
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
        keeps_turns: Whether later turns of conversations continue from the cache of those before,
            which the engine keeps if it has room; the cost estimate asks this.
        streamer: The current streamer, see :meth:`streaming`.
        batches_at_once: How many batches of a :meth:`stream` the engine gets together.
    """

    records_log_probs = False
    copies_weights = False
    samples_elsewhere = False
    holds_weights = False
    repeats_prompts = False
    keeps_turns = False
    streamer: Callable[[Tensor], None] | None = None
    batches_at_once = 1

    def check_policy(self, head: VLMReasoningHead) -> None:
        """Raise a ValueError if this engine cannot sample a policy. Called once, at the start."""
        return

    def expect_conversations(self, images: int, tokens: int) -> None:
        """Prepare for the prompts of started conversations; called once, before any rollout.

        Args:
            images: Most images in a prompt.
            tokens: Most tokens in a prompt and its response.

        Raises:
            ValueError: The engine does not take as many.
        """
        return

    def memory_of(self, head: VLMReasoningHead) -> GuessMemory | None:
        """What the tokens of a policy are guessed from, which belongs to the state of a training.
        None if none are guessed."""
        return None

    def hand_over(self, head: VLMReasoningHead) -> None:
        """Take the policy's current weights now, if the engine has a copy; a rollout does so on its
        own. All processes take part."""
        return

    @contextmanager
    def holding_weights(self) -> Iterator[None]:
        """Within the block, the weights stay those of the last :meth:`hand_over`, and each process
        may sample any number of batches, or none (an evaluation, or later turns of conversations).
        """
        before, self.holds_weights = self.holds_weights, True
        try:
            yield
        finally:
            self.holds_weights = before

    @contextmanager
    def taking_weights(self, head: VLMReasoningHead) -> Iterator[None]:
        """:meth:`hand_over`, unless the weights are held already, then :meth:`holding_weights`."""
        if not self.holds_weights:
            self.hand_over(head)
        with self.holding_weights():
            yield

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

    @torch.no_grad()
    def stream(self,
               head: VLMReasoningHead,
               batches: Iterable[tuple[Sequence[EncodedPrompt], Sequence[int] | None]],
               group_size: int = 1,
               temperature: float = 1.0,
               max_new_tokens: int = 1024,
               top_p: float = 1.0,
               top_k: int = 0,
               seed: int | Sequence[int] = 0) -> Iterator[Responses]:
        """Yield the responses to each batch of prompts, in order, as :meth:`__call__` would return
        them up to rounding.

        An engine may take some further batches before it has finished one, so that no sample waits
        for the longest of its batch. Close the iterator if you do not exhaust it.

        Args:
            head: The policy, which must not change before the end.
            batches: Prompts and their numbers, see :meth:`__call__`; a batch may be empty.
            group_size, temperature, max_new_tokens, top_p, top_k, seed: See :meth:`__call__`.
        """
        how = Sampling(group_size, temperature, max_new_tokens, top_p, top_k, seed, ())
        numbered = ((prompts, range(len(prompts)) if numbers is None else numbers)
                    for prompts, numbers in batches)
        yield from self.sample_stream(head, numbered, how)

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

    def sample_stream(self, head: VLMReasoningHead,
                      batches: Iterable[tuple[Sequence[EncodedPrompt], Sequence[int]]],
                      how: Sampling) -> Iterator[Responses]:
        """:meth:`stream` with its defaults filled in; by default, this samples
        ``batches_at_once`` after each other. ``how.prompt_numbers`` is unused.

        Raises:
            NonFiniteError: As in :meth:`sample`; ``prompt`` counts from the first prompt whose
                responses were not yielded yet.
        """
        batches = iter(batches)
        while some := list(islice(batches, self.batches_at_once)):
            sizes = [len(prompts) * how.group_size for prompts, _ in some]
            parts: Iterable[Responses] = [no_responses(head.device)] * len(some)
            if sum(sizes):
                prompts, numbers = ([x for part in parts for x in part]
                                    for parts in zip(*some, strict=True))
                parts = self.sample(head, prompts, how._replace(prompt_numbers=numbers)).split(
                    sizes)
            yield from parts


class DrawingEngine(RolloutEngine):
    """Draws tokens from the policy module itself; a subclass computes the logits."""

    def sample(self, head: VLMReasoningHead, prompts: Sequence[EncodedPrompt],
               how: Sampling) -> Responses:
        """See :class:`RolloutEngine`.

        Raises:
            NonFiniteError: Logits of allowed tokens are NaN or infinite.
        """
        draws = self.draw(head, how)
        with evaluating(head.model), self.explaining(head, [prompts], how):
            ids, logp = self.generate(head, prompts, how.group_size, how.max_new_tokens, draws,
                                      self.warp(how))
        return cut_responses(ids, head.end_tokens, head.pad_token, logp)

    @staticmethod
    def draw(head: VLMReasoningHead, how: Sampling) -> Tensor | None:
        """The ``draws`` of :meth:`generate`."""
        if how.temperature == 0:
            return None
        return uniform_draws(how.seed, how.prompt_numbers, how.group_size,
                             how.max_new_tokens).to(head.device)

    @staticmethod
    def warp(how: Sampling) -> LogitsProcessorList:
        """The ``warp`` of :meth:`generate`."""
        if how.temperature == 0:
            return LogitsProcessorList()
        return warpers(how.temperature, how.top_k, how.top_p)

    @contextmanager
    def explaining(self, head: VLMReasoningHead, batches: Iterable[Sequence[EncodedPrompt]],
                   how: Sampling) -> Iterator[None]:
        """Raise NonFiniteError for a NonFiniteLogits about a sample of these prompts."""
        try:
            yield
        except NonFiniteLogits as found:
            number = found.row // how.group_size
            prompt = [prompt for prompts in batches for prompt in prompts][number]
            raise NonFiniteError(
                f'The logits of token {len(found.ids) + 1} of the response to prompt {number} '
                f'of the batch are not finite. '
                f'{head.explain_non_finite([prompt], found.ids[None])}', number) from None

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
