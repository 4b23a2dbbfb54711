# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Computes log-probabilities of tokens from hidden states, with part of the logits at a time.

Notation: T tokens of all responses, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

# Logits that are in memory at once: 2^26 are 256 MiB in float32.
MAX_LOGITS = 2**26
# Logits that are normalized at once: so few stay in a CPU's cache from one operation to the next; a
# GPU would spend its time on launches.
BLOCK, CPU_BLOCK = 2**24, 2**18


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
    backward pass. Besides the logits, only one number per token is kept for that pass.

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
        logp, entropies = _Scores.apply(output_head(states), tokens, temperature, list(forbidden),
                                        entropy)
        return logp, entropies if entropy == 'grad' or entropies is None else entropies.detach()

    size = max(1, max_logits // output_head.out_features)
    if len(hidden) <= size:
        return score(hidden, ids)
    parts = [checkpoint(score, *part, use_reentrant=False)
             for part in zip(hidden.split(size), ids.split(size), strict=True)]
    logp, entropies = zip(*parts, strict=True)
    return torch.cat(logp), None if entropy is None else torch.cat(entropies)


class _Scores(torch.autograd.Function):
    """(t, V) logits and (t,) ids -> (t,) log-probabilities, and entropies if they are wanted.

    With x the scaled logits and p their softmax, log p = x - lse(x), whose entry i has the gradient
    (unit vector of i) - p; the entropy H = -p . log p has the gradient -p (log p + H).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float, forbidden: list[int],
                entropy: str | None) -> tuple[Tensor, Tensor | None]:
        wide = torch.promote_types(logits.dtype, torch.float32)
        lse, logp = (logits.new_empty(len(logits), dtype=wide) for _ in range(2))
        entropies = None if entropy is None else torch.empty_like(lse)
        for rows in _blocks(logits):
            x = _scaled(logits[rows], temperature, forbidden)
            lse[rows] = x.logsumexp(dim=-1)
            x.sub_(lse[rows, None])
            logp[rows] = x.gather(1, ids[rows, None])[:, 0]
            if entropies is not None:
                p = x.exp()
                x[:, forbidden] = 0.0  # impossible tokens add nothing
                entropies[rows] = -p.mul_(x).sum(dim=-1)
        ctx.temperature, ctx.forbidden = temperature, forbidden
        ctx.save_for_backward(logits, ids, lse, entropies if entropy == 'grad' else None)
        ctx.set_materialize_grads(False)
        return logp, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_logp: Tensor | None, of_entropy: Tensor | None) -> Any:
        logits, ids, lse, entropies = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for rows in _blocks(logits):
            # log p, then the gradient of the scaled logits
            x = _scaled(logits[rows], ctx.temperature, ctx.forbidden).sub_(lse[rows, None])
            p = x.exp()
            if entropies is None or of_entropy is None:
                x.zero_()
            else:
                x.add_(entropies[rows, None]).mul_(-of_entropy[rows, None])
            if of_logp is not None:
                x.sub_(of_logp[rows, None])
            x.mul_(p)
            if of_logp is not None:
                x.scatter_add_(1, ids[rows, None], of_logp[rows, None])
            x[:, ctx.forbidden] = 0.0
            gradient[rows] = x.div_(ctx.temperature)
        return gradient, None, None, None, None


def _blocks(logits: Tensor) -> Iterator[slice]:
    """Slices of the rows of (t, V) logits that are normalized at once."""
    limit = CPU_BLOCK if logits.device.type == 'cpu' else BLOCK
    size = max(1, limit // logits.shape[1])
    return (slice(start, start + size) for start in range(0, len(logits), size))


def _scaled(logits: Tensor, temperature: float, forbidden: list[int]) -> Tensor:
    """Logits / temperature, a new tensor of at least float32, -inf for forbidden tokens."""
    x = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    x[:, forbidden] = -torch.inf
    return x
