# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Random weights that are the same each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """A context in which torch draws from a seed on the CPU; nobody else's draws change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
