# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The entropy of the policy's tokens: which of them the loss looks at, and how to keep it up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor


def entropy_threshold(entropies: Tensor, top: float) -> float:
    """The entropy from which on a token is among the top ones (arXiv 2506.01939, section 4: the
    tokens at which reasoning forks): the (1 - top) quantile, interpolated, as in TRL.

    Args:
        entropies: (M,) float, of all tokens of a batch, in nats.
        top: The share of tokens, in (0, 1).

    Returns:
        The threshold; infinity without tokens.
    """
    if not entropies.numel():
        return float('inf')
    # numpy's, since torch's quantile takes at most 2^24 values
    return float(np.quantile(entropies.detach().cpu().double().numpy(), 1 - top))


def check_top_entropy(top: float) -> None:
    """Raise a ValueError for a share of tokens that is not in (0, 1]."""
    if not 0 < top <= 1:
        raise ValueError(f'`top_entropy_quantile` should be in (0, 1] (1 is all tokens), but got '
                         f'{top}')


@dataclass
class AdaptiveEntropy:
    """A coefficient of the entropy bonus that holds the entropy at a target (Skywork-OR1, arXiv
    2505.22312, section 4; TRL's ``use_adaptive_entropy``).

    After each iteration with the mean entropy H of its tokens,

        coef <- clip(coef + delta, low, high) if H < target, else clip(coef - delta, low, high),

    and the next iteration has the bonus only if H < target. The defaults are Skywork-OR1's.

    Attributes:
        coef: The coefficient before training, then the current one.
        target: In nats per token, positive.
        delta: Step of the coefficient, positive.
        low, high: Bounds of the coefficient, of which the lower one is at least 0.
        is_applied: Whether the bonus is applied.

    Raises:
        ValueError: A value is out of range.
    """

    coef: float = 0.0
    target: float = 0.2
    delta: float = 1e-4
    low: float = 0.0
    high: float = 5e-3
    is_applied: bool = True

    def __post_init__(self) -> None:
        for name in ('target', 'delta'):
            if not 0 < getattr(self, name) < float('inf'):
                raise ValueError(f'`adaptive_entropy.{name}` should be positive and finite, but '
                                 f'got {getattr(self, name)}')
        if not 0 <= self.low <= self.coef <= self.high < float('inf'):
            raise ValueError(
                f'`entropy_coef` should be in [`adaptive_entropy.low`, `adaptive_entropy.high`], '
                f'of which the lower one should be at least 0, but got {self.coef} and '
                f'[{self.low}, {self.high}]; change one of them')

    @classmethod
    def of(cls, coef: float, config: Mapping[str, Any]) -> AdaptiveEntropy:
        """Build it from the ``adaptive_entropy`` of a config.

        Raises:
            ValueError: A key is unknown, or a value is out of range.
        """
        known = ('target', 'delta', 'low', 'high')
        if unknown := sorted(config.keys() - set(known)):
            raise ValueError(f'`adaptive_entropy` should have keys among {known}, but got '
                             f'{unknown}; correct or remove them')
        return cls(coef, **config)

    @property
    def applied(self) -> float:
        """The coefficient in the loss."""
        return self.coef if self.is_applied else 0.0

    def update(self, entropy: float) -> None:
        """Adapt to the mean entropy of an iteration's tokens, in nats."""
        self.is_applied = entropy < self.target
        step = self.delta if self.is_applied else -self.delta
        self.coef = min(max(self.coef + step, self.low), self.high)

    def state_dict(self) -> dict[str, Any]:
        """Plain data of what changes in training."""
        return dict(coef=self.coef, is_applied=self.is_applied)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; the coefficient is cut to the own bounds."""
        self.coef = min(max(state['coef'], self.low), self.high)
        self.is_applied = state['is_applied']
