# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Sampling that all engines share: draws do not depend on the batch or the process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

from mmdpad.utils.number_checks import check_number


class Sampling(NamedTuple):
    """How responses are sampled; see :meth:`.engine.RolloutEngine.__call__`."""

    group_size: int
    temperature: float
    max_new_tokens: int
    top_p: float
    top_k: int
    seed: int | Sequence[int]
    prompt_numbers: Sequence[int]


# The range of each setting in words and as a check, and whether it is a whole number.
_RANGES: dict[str, tuple[Any, ...]] = dict(
    temperature=('at least 0 (0: greedy)', lambda value: 0 <= value < float('inf'), False),
    max_new_tokens=('at least 1', lambda value: value >= 1, True),
    top_p=('in (0, 1] (1: off)', lambda value: 0 < value <= 1, False),
    top_k=('at least 0 (0: off)', lambda value: value >= 0, True))


def check_sampling(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check that sampling settings are in range.

    Args:
        settings: May hold ``temperature``, ``max_new_tokens``, ``top_p``, ``top_k`` and others.
        where: The config key that holds them, for the message.

    Returns:
        The settings, whole numbers as int.

    Raises:
        ValueError: A setting is not a number, or out of range.
    """
    return {name: check_number(f'{where}.{name}', value, *_RANGES[name]) if name in _RANGES
            else value for name, value in settings.items()}


class Responses(NamedTuple):
    """N = B * G responses, prompt-major.

    Attributes:
        ids: (N, R) long, right-padded; the end token is part of a response.
        mask: (N, R) bool, True for tokens that the policy chose.
        truncated: (N,) bool, True where a response reached the length limit without an end token.
        logp: (N, R) float32, the engine's log-probabilities of the tokens during sampling: at the
            sampling temperature, without vision tokens and before top-k and top-p; 0 for padding.
            None if they were not recorded.
    """

    ids: Tensor
    mask: Tensor
    truncated: Tensor
    logp: Tensor | None = None

    def to(self, device: torch.device | str) -> Responses:
        """The same on a device."""
        return Responses(self.ids.to(device), self.mask.to(device), self.truncated.to(device),
                         None if self.logp is None else self.logp.to(device))

    def split(self, sizes: Sequence[int]) -> list[Responses]:
        """Parts of so many responses."""
        logp = ([None] * len(sizes) if self.logp is None else self.logp.split(sizes))
        return [Responses(*part) for part in zip(
            self.ids.split(sizes), self.mask.split(sizes), self.truncated.split(sizes), logp,
            strict=True)]


def no_responses(device: torch.device | str) -> Responses:
    """The responses to no prompts."""
    ids = torch.zeros(0, 0, dtype=torch.long, device=device)
    return Responses(ids, ids.bool(), ids.any(dim=1))


def cut_responses(ids: Tensor, end_tokens: Sequence[int], pad_token: int,
                  logp: Tensor | None = None) -> Responses:
    """Cut responses (N, R) after their first end token; the rest becomes padding."""
    ends = torch.isin(ids, torch.tensor(end_tokens, device=ids.device))
    mask = ends.cumsum(dim=1) - ends.long() == 0
    return Responses(ids.masked_fill(~mask, pad_token), mask, ~ends.any(dim=1),
                     None if logp is None else logp.masked_fill(~mask, 0.0))


def uniform_draws(seed: int | Sequence[int], prompt_numbers: Sequence[int], group_size: int,
                  length: int) -> Tensor:
    """Draw (B * G, length) float64 numbers in [0, 1). Row b * G + g depends only on the seed, the
    number of prompt b and g, so it is the same in any batch and process."""
    seed = [seed] if isinstance(seed, int) else [*seed]
    return torch.from_numpy(np.stack([
        np.random.default_rng([*seed, number, g]).random(length)
        for number in prompt_numbers for g in range(group_size)]))


class NonFiniteLogits(Exception):
    """An engine found logits that are NaN or infinite.

    Args:
        row: Index of the sample.
        ids: (t,) long, the sample's previous tokens.
    """

    def __init__(self, row: int, ids: Tensor) -> None:
        super().__init__(row)
        self.row = row
        self.ids = ids


def draw_tokens(scores: Tensor, draws: Tensor, highest: Tensor) -> Tensor:
    """Inverse-transform sampling: the first token whose cumulative probability exceeds the draw.

    Args:
        scores: (N, V) float32 logits; -inf for tokens that cannot be drawn.
        draws: (N,) float64 in [0, 1).
        highest: (N,), maxima of the rows; finite if and only if no score is NaN or inf and at least
            one token can be drawn.

    Returns:
        (N,) long; V where ``highest`` is not finite.
    """
    weights = (scores - highest[:, None]).exp()
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # Rounding must not raise a draw to the total, past the last token that is possible.
    draw = torch.minimum(draws[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, draw, right=True)[:, 0]


def warpers(temperature: float, top_k: int, top_p: float) -> LogitsProcessorList:
    """Build transformers' processors that change the model's own distribution."""
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
    """A context in which the model is in evaluation mode; the mode of each module is restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
