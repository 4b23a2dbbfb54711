# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Things of different sizes go into as few passes as a budget allows, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def fill(sizes: Sequence[int], limit: int) -> Iterator[range]:
    """Yield consecutive ranges of indices, each as long as its sizes add up to at most ``limit``,
    or of one size that is above it; without sizes none."""
    start, total = 0, 0
    for index, size in enumerate(sizes):
        if start < index and total + size > limit:
            yield range(start, index)
            start, total = index, 0
        total += size
    if sizes:
        yield range(start, len(sizes))
