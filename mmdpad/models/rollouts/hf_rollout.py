# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Responses by transformers' own ``generate``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.prompt_encoder import EncodedPrompt, collate_images, collate_text
from mmdpad.registry import ROLLOUTS

from .sampling import Responses, cut_responses, draw_tokens, evaluating, uniform_draws, warpers


@ROLLOUTS.register_module()
class HFRollout:
    """Samples with ``model.generate``: for any attention implementation of transformers."""

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
            processors += warpers(temperature, top_k, top_p)
            processors.append(InverseTransformSampling(draws.to(head.device), length))
        # `generate` would fill gaps from the folder's own sampling defaults (Qwen ships some).
        folder_defaults, model.generation_config = model.generation_config, config
        devices = [head.device] if head.device.type == 'cuda' else []
        try:
            with evaluating(model), torch.random.fork_rng(devices=devices):
                sequences = model.generate(**batch, generation_config=config,
                                           logits_processor=processors)
        finally:
            model.generation_config = folder_defaults
            model.model.rope_deltas = None
        return cut_responses(sequences[:, length:], end_tokens, config.pad_token_id)


class InverseTransformSampling(LogitsProcessor):
    """Leaves one token possible, see :func:`draw_tokens`.

    Args:
        draws: (N, R) float64 in [0, 1).
        prompt_length: Tokens of the padded prompts.
    """

    def __init__(self, draws: Tensor, prompt_length: int) -> None:
        self.draws = draws
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(N, V) logits -> 0 for the drawn token, -inf for the others."""
        token = draw_tokens(scores, self.draws[:, input_ids.shape[1] - self.prompt_length])
        return torch.full_like(scores, -torch.inf).scatter(1, token[:, None], 0.0)
