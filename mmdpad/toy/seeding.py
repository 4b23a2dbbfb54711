# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Reproducible random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """A context in which torch's CPU generator is seeded; draws outside do not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
