# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Probabilities as log odds, and back."""

from __future__ import annotations

import numpy as np

TINY = float(np.finfo(np.float64).tiny)
MARGIN = 1e-6


def log_odds(probability: np.ndarray, low: float = MARGIN) -> np.ndarray:
    """log(p / (1 - p)) of p clipped to [``low``, 1 - :data:`MARGIN`]; NaN stays NaN."""
    clipped = np.clip(probability, low, 1 - MARGIN)
    return np.log(clipped) - np.log1p(-clipped)


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0, -logit))
