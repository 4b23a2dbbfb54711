# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Responses by transformers' own ``generate``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import BatchFeature, GenerationConfig

from mmdpad.models.heads import VLMReasoningHead
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
                 prompts: BatchFeature,
                 group_size: int = 1,
                 temperature: float = 1.0,
                 max_new_tokens: int = 1024,
                 top_p: float = 1.0,
                 top_k: int = 0,
                 seed: int = 0) -> Responses:
        """Generate G responses to each of B prompts.

        Args:
            head: The policy. Its mode (train or eval) is kept.
            prompts: What ``head.encode_prompts`` returns.
            group_size: G.
            temperature: 0 for the greedy response, else that of the sampling.
            max_new_tokens: Limit of a response's length.
            top_p, top_k: Nucleus and top-k sampling; 1.0 and 0 leave the distribution as it is.
            seed: The same seed gives the same responses; the global generators are untouched.
        """
        model, end_tokens = head.model, head.end_tokens
        config = GenerationConfig(
            max_new_tokens=max_new_tokens, num_return_sequences=group_size, use_cache=True,
            do_sample=temperature > 0, eos_token_id=end_tokens,
            pad_token_id=head.processor.tokenizer.pad_token_id,
            suppress_tokens=head.vision_token_ids,
            **(dict(temperature=temperature, top_p=top_p, top_k=top_k) if temperature > 0 else {}))
        # `generate` would fill gaps from the folder's own sampling defaults (Qwen ships some).
        folder_defaults, model.generation_config = model.generation_config, config
        was_training = model.training
        model.eval()
        devices = [head.device] if head.device.type == 'cuda' else []
        try:
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed)
                sequences = model.generate(**prompts, generation_config=config)
        finally:
            model.generation_config = folder_defaults
            model.train(was_training)
        ids = sequences[:, prompts['input_ids'].shape[1]:]
        ends = torch.isin(ids, torch.tensor(end_tokens, device=ids.device))
        # Everything behind the first end token is padding.
        mask = ends.cumsum(dim=1) - ends.long() == 0
        return Responses(ids, mask, ~ends.any(dim=1))
