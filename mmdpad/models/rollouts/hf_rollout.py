# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Responses by transformers' own ``generate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.prompt_encoder import EncodedPrompt, collate_images, collate_text
from mmdpad.registry import ROLLOUTS


class Responses(NamedTuple):
    """N = B * G responses, prompt-major.

    Attributes:
        ids: (N, R) long, right-padded; the end token is part of a response.
        mask: (N, R) bool, True for tokens that the policy chose.
        truncated: (N,) bool, True where the length limit came before an end token.
    """

    ids: Tensor
    mask: Tensor
    truncated: Tensor


@ROLLOUTS.register_module()
class HFRollout:
    """Samples with ``model.generate``; needs nothing but transformers."""

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
        model, end_tokens = head.model, head.end_tokens
        config = GenerationConfig(
            max_new_tokens=max_new_tokens, num_return_sequences=group_size, use_cache=True,
            eos_token_id=end_tokens, pad_token_id=head.processor.tokenizer.pad_token_id,
            suppress_tokens=head.vision_token_ids,
            # The processors below leave one token; generate's own sampling has no choice.
            do_sample=temperature > 0, temperature=1.0, top_k=0, top_p=1.0)
        batch = collate_text(prompts, config.pad_token_id, head.device)
        batch['pixel_values'], _ = collate_images(prompts, head.device)
        length = batch['input_ids'].shape[1]
        processors = LogitsProcessorList()
        if temperature > 0:
            if prompt_numbers is None:
                prompt_numbers = range(len(prompts))
            draws = uniform_draws(seed, prompt_numbers, group_size, max_new_tokens)
            processors.append(TemperatureLogitsWarper(float(temperature)))
            if top_k > 0:
                processors.append(TopKLogitsWarper(top_k))
            if top_p < 1:
                processors.append(TopPLogitsWarper(top_p))
            processors.append(InverseTransformSampling(draws.to(head.device), length))
        # `generate` would fill gaps from the folder's own sampling defaults (Qwen ships some).
        folder_defaults, model.generation_config = model.generation_config, config
        was_training = model.training
        model.eval()
        devices = [head.device] if head.device.type == 'cuda' else []
        try:
            with torch.random.fork_rng(devices=devices):
                sequences = model.generate(**batch, generation_config=config,
                                           logits_processor=processors)
        finally:
            model.generation_config = folder_defaults
            model.train(was_training)
        ids = sequences[:, length:]
        ends = torch.isin(ids, torch.tensor(end_tokens, device=ids.device))
        # Everything behind the first end token is padding.
        mask = ends.cumsum(dim=1) - ends.long() == 0
        return Responses(ids, mask, ~ends.any(dim=1))


class InverseTransformSampling(LogitsProcessor):
    """Leaves one token possible: the first whose cumulative probability exceeds the draw.

    Args:
        draws: (N, R) float64 in [0, 1).
        prompt_length: Tokens of the padded prompts.
    """

    def __init__(self, draws: Tensor, prompt_length: int) -> None:
        self.draws = draws
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(N, V) logits -> 0 for the drawn token, -inf for the others."""
        cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
        total = cumulative[:, -1:]
        draw = self.draws[:, input_ids.shape[1] - self.prompt_length, None] * total
        # Rounding must not lift a draw to the total, behind the last token that is possible.
        draw = torch.minimum(draw, torch.nextafter(total, torch.zeros_like(total)))
        token = torch.searchsorted(cumulative, draw, right=True)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


def uniform_draws(seed: int | Sequence[int], prompt_numbers: Sequence[int], group_size: int,
                  length: int) -> Tensor:
    """(B * G, length) float64 in [0, 1): row b * G + g follows from the seed, prompt number b
    and g alone, so it is the same in any batch and process."""
    seed = [seed] if isinstance(seed, int) else [*seed]
    return torch.from_numpy(np.stack([
        np.random.default_rng([*seed, number, g]).random(length)
        for number in prompt_numbers for g in range(group_size)]))
