# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Chooses the answer that the policy was most likely to write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mmdpad.models.non_finite import NonFiniteError
from mmdpad.models.scorers.likelihood_scorer import log_probs_of, tokens_of
from mmdpad.registry import MODELS

from .selector import Asked, Selector


@MODELS.register_module()
class LikelihoodSelector(Selector):
    """The mean log-probability of a response's tokens under the policy at temperature 1, in nats
    per token; at most 0.

    It is that of the rollout engine, if this records it and samples at temperature 1, and otherwise
    comes from one forward pass over the prompt and its responses. Dividing by the length keeps
    short responses from winning (GNMT, arXiv 1609.08144). It works for all tasks.
    """

    name = 'likelihood'
    needs_policy = True

    @torch.no_grad()
    def measure(self, asked: Sequence[Asked], policy: Any) -> list[np.ndarray]:
        """See :class:`Selector`.

        Raises:
            NonFiniteError: Log-probabilities are NaN or infinite; ``prompt`` is the number of the
                question.
        """
        return [self._measure(one, policy, number) for number, one in enumerate(asked)]

    def _measure(self, asked: Asked, policy: Any, number: int) -> np.ndarray:
        known = np.array([np.nan if own.mean_logp is None else own.mean_logp
                          for own in asked.candidates])
        usable = np.array([own.usable for own in asked.candidates])
        rows = [tokens_of(policy, own.response, own.response_ids) for own in asked.candidates]
        missing = [k for k in np.flatnonzero(usable & np.isnan(known)) if len(rows[k])]
        if missing:
            try:
                found = log_probs_of(policy, [asked.prompt], [rows[k] for k in missing])
            except NonFiniteError as error:
                raise NonFiniteError(str(error), number) from error
            known[missing] = [own.mean() for own in found]
        return np.where(usable, known, np.nan)
