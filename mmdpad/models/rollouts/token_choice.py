# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Chooses tokens by the logits of a step, without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper

from mmdpad.models.heads import VLMReasoningHead

from .sampling import draw_tokens


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

    def leave(self, count: int) -> None:
        """Forget the draws of the first samples."""
        if self.draws is not None:
            self.draws = self.draws[count:]

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
