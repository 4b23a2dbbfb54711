# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What the engines have in common: a token is chosen by a draw that no batch or process changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


class Sampling(NamedTuple):
    """How responses are sampled; see :meth:`.engine.RolloutEngine.__call__`."""

    group_size: int
    temperature: float
    max_new_tokens: int
    top_p: float
    top_k: int
    seed: int | Sequence[int]
    prompt_numbers: Sequence[int]


# Of each setting: what it should be, and whether a value is.
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = dict(
    temperature=('at least 0 (0: greedy)', lambda value: 0 <= value < float('inf')),
    max_new_tokens=('at least 1', lambda value: value >= 1),
    top_p=('in (0, 1] (1: off)', lambda value: 0 < value <= 1),
    top_k=('at least 0 (0: off)', lambda value: value >= 0))


def check_sampling(settings: Mapping[str, Any], where: str) -> None:
    """See that settings of sampling are in their ranges.

    Args:
        settings: Among others ``temperature``, ``max_new_tokens``, ``top_p``, ``top_k``.
        where: The key that holds them, for the message.

    Raises:
        ValueError: One is not.
    """
    for name, (wanted, holds) in _RANGES.items():
        if name in settings and not holds(settings[name]):
            raise ValueError(f'`{where}.{name}` should be {wanted}, but got {settings[name]}; '
                             f'correct it')


class Responses(NamedTuple):
    """N = B * G responses, prompt-major.

    Attributes:
        ids: (N, R) long, right-padded; the end token is part of a response.
        mask: (N, R) bool, True for tokens that the policy chose.
        truncated: (N,) bool, True where the length limit came before an end token.
        logp: (N, R) float32, log-probabilities of the tokens as the engine had them when it
            sampled: of the distribution at the sampling's temperature, without vision tokens and
            before top-k and top-p; 0 for padding. None where they were not recorded.
    """

    ids: Tensor
    mask: Tensor
    truncated: Tensor
    logp: Tensor | None = None


def cut_responses(ids: Tensor, end_tokens: Sequence[int], pad_token: int,
                  logp: Tensor | None = None) -> Responses:
    """Responses end with their first end token; what stands behind it in (N, R) is padding."""
    ends = torch.isin(ids, torch.tensor(end_tokens, device=ids.device))
    mask = ends.cumsum(dim=1) - ends.long() == 0
    return Responses(ids.masked_fill(~mask, pad_token), mask, ~ends.any(dim=1),
                     None if logp is None else logp.masked_fill(~mask, 0.0))


def uniform_draws(seed: int | Sequence[int], prompt_numbers: Sequence[int], group_size: int,
                  length: int) -> Tensor:
    """(B * G, length) float64 in [0, 1): row b * G + g follows from the seed, prompt number b
    and g alone, so it is the same in any batch and process."""
    seed = [seed] if isinstance(seed, int) else [*seed]
    return torch.from_numpy(np.stack([
        np.random.default_rng([*seed, number, g]).random(length)
        for number in prompt_numbers for g in range(group_size)]))


class NonFiniteLogits(Exception):
    """An engine found logits that are NaN or infinite.

    Args:
        row: Number of the sample.
        ids: (t,) long, the sample's tokens before them.
    """

    def __init__(self, row: int, ids: Tensor) -> None:
        super().__init__(row)
        self.row = row
        self.ids = ids


def draw_tokens(scores: Tensor, draws: Tensor, highest: Tensor) -> Tensor:
    """Inverse-transform sampling: the first token whose cumulative probability exceeds the draw.

    Args:
        scores: (N, V) float32 logits; -inf for what cannot be drawn.
        draws: (N,) float64 in [0, 1).
        highest: (N,), maxima of the rows; finite if and only if no score is NaN or inf and some
            token can be drawn.

    Returns:
        (N,) long; V where ``highest`` is not finite.
    """
    weights = (scores - highest[:, None]).exp()
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # Rounding must not lift a draw to the total, behind the last token that is possible.
    draw = torch.minimum(draws[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, draw, right=True)[:, 0]


def warpers(temperature: float, top_k: int, top_p: float) -> LogitsProcessorList:
    """transformers' processors for what departs from the model's own distribution."""
    processors = LogitsProcessorList()
    if temperature != 1:
        processors.append(TemperatureLogitsWarper(float(temperature)))
    if top_k > 0:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        processors.append(TopPLogitsWarper(top_p))
    return processors


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A context in which the model is in evaluation mode; each of its modules gets its own back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
