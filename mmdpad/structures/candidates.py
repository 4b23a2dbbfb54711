# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The answers that were sampled to one question, and which of them was chosen."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from .reasoning_output import ParseFailure, ReasoningOutput

if TYPE_CHECKING:
    from mmengine.structures import InstanceData
    from torch import Tensor

ABSTAINED = 'abstained'
"""The reason of the :class:`ParseFailure` of a sample whose candidates were all rejected. Its empty
mask is right where the question has no target."""


@dataclass(frozen=True)
class Candidate:
    """One of the answers to a question.

    Attributes:
        response: The text of the response.
        truncated: Whether the length limit ended it.
        parsed: Its content, in pixels of the model image.
        instances: What the model's ``predict`` gives for it (``pred_instances``); none if the
            response cannot be used.
        tokens: The number of its tokens, the end token included.
        response_ids: (r,) long, its tokens as sampled; None of a stored text.
        mean_logp: The mean log-probability of its tokens at temperature 1, in nats, as the rollout
            engine recorded it; None if it did not.
        invented: How many objects were left out since their label was not asked for.
        greedy: Whether it is the greedy answer, which is not one of the sampled ones.
    """

    response: str
    truncated: bool
    parsed: ReasoningOutput | ParseFailure
    instances: InstanceData
    tokens: int
    response_ids: Tensor | None = None
    mean_logp: float | None = None
    invented: int = 0
    greedy: bool = False

    @property
    def usable(self) -> bool:
        """Whether the response has an answer; "no target" is one."""
        return isinstance(self.parsed, ReasoningOutput)


@dataclass
class Selection:
    """N answers that were sampled to a question, what selectors say of them, and the choice.

    Attributes:
        candidates: The N sampled answers, in the order of their draws; the first n of them are a
            fair sample of n.
        greedy: The greedy answer, if it was asked for.
        values: Name of a selector -> float64 (N,), its value of each candidate, which does not
            depend on the other ones; NaN where it has none, as of an unusable response. Selectors
            that compare candidates, such as 'consensus', have no entry.
        overlaps: float64 (N, N) in [0, 1], IoU of the union masks of two candidates, 1 of two empty
            masks; 0 if one of the two is unusable. Of a task that decodes no masks, 1 where two
            answers in words are the same.
        scores: float64 (N,), the values by the selector that chose, NaN where it has none; None
            before a choice.
        chosen: The index of the chosen candidate; None if all were rejected (abstained).
        value: The score of the chosen one, or if all were rejected that of the best.
        confidence: Its value by the selector that says whether to abstain, often the same one.
        seconds: Shares of the time: ``sample`` (of the batch's), ``decode``, ``select``.
        clip_calls: How many images the discriminator had to encode.
    """

    candidates: list[Candidate]
    values: dict[str, np.ndarray]
    overlaps: np.ndarray
    greedy: Candidate | None = None
    scores: np.ndarray | None = None
    chosen: int | None = None
    value: float = float('nan')
    confidence: float = float('nan')
    seconds: dict[str, float] = field(default_factory=dict)
    clip_calls: int = 0

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def usable(self) -> np.ndarray:
        """bool (N,), which candidates have an answer."""
        return np.array([candidate.usable for candidate in self.candidates], dtype=bool)

    def first(self, n: int) -> Selection:
        """The selection among the first n, without a choice; costs are those of all N.

        Raises:
            ValueError: There are fewer.
        """
        if not 1 <= n <= len(self):
            raise ValueError(f'`n` should be from 1 to {len(self)}, the number of candidates, but '
                             f'got {n}')
        return replace(self, candidates=self.candidates[:n], overlaps=self.overlaps[:n, :n],
                       values={name: own[:n] for name, own in self.values.items()}, scores=None,
                       chosen=None, value=float('nan'), confidence=float('nan'))


def agreement(overlaps: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """The mean overlap of each of n answers with the n - 1 others.

    Args:
        overlaps: float64 (n, n), see :class:`Selection`.
        usable: bool (n,).

    Returns:
        float64 (n,), NaN of unusable answers and of a single one.
    """
    others = len(overlaps) - 1
    if not others:
        return np.full(1, np.nan)
    return np.where(usable, (overlaps.sum(axis=1) - overlaps.diagonal()) / others, np.nan)
