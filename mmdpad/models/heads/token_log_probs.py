# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Computes log-probabilities of tokens from hidden states, with part of the logits at a time.

Notation: T tokens of all responses, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

# Logits that are in memory at once: 2^26 are 256 MiB in float32.
MAX_LOGITS = 2**26


class OutputHead(Protocol):
    """(t, D) states -> (t, V) logits."""

    out_features: int

    def __call__(self, states: Tensor, /) -> Tensor: ...


def token_log_probs(hidden: Tensor, output_head: OutputHead, ids: Tensor,
                    temperature: float = 1.0, forbidden: Sequence[int] = (),
                    entropy: str | None = None,
                    max_logits: int = MAX_LOGITS) -> tuple[Tensor, Tensor | None]:
    """Compute log-probabilities of tokens under softmax(logits / temperature).

    If there are more than ``max_logits`` logits, they are computed in parts, and recomputed in the
    backward pass.

    Args:
        hidden: (T, D) states that predict the tokens.
        output_head: (t, D) -> (t, V) logits, the model's ``lm_head``.
        ids: (T,) long.
        temperature: Positive.
        forbidden: Tokens of probability 0.
        entropy: 'grad' or 'no_grad' to also return the entropy of each token's distribution, with
            or without gradients.
        max_logits: Maximum number of logits in memory at once.

    Returns:
        (T,) float32 log-probabilities (float64 for float64 states), and the entropies in nats (T,),
        or None.
    """
    def score(states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = output_head(states)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
        logits[:, list(forbidden)] = -torch.inf
        logp = -cross_entropy(logits, tokens, reduction='none')
        if entropy is None:
            return logp, None
        return logp, _entropy(logits if entropy == 'grad' else logits.detach())

    size = max(1, max_logits // output_head.out_features)
    if len(hidden) <= size:
        return score(hidden, ids)
    parts = [checkpoint(score, *part, use_reentrant=False)
             for part in zip(hidden.split(size), ids.split(size), strict=True)]
    logp, entropies = zip(*parts, strict=True)
    return torch.cat(logp), None if entropy is None else torch.cat(entropies)


def _entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats, (..., V) -> (...); impossible tokens add nothing."""
    logp = logits.log_softmax(dim=-1)
    return -(logp.exp() * logp.masked_fill(logp == -torch.inf, 0.0)).sum(dim=-1)
