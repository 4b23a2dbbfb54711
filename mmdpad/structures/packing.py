# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Pack items of different sizes, in order, into as few passes as a budget allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def fill(sizes: Sequence[int], limit: int) -> Iterator[range]:
    """Yield consecutive index ranges, each as long as its sizes add up to at most ``limit``. A size
    above the limit gets a range of its own; without sizes there are no ranges."""
    start, total = 0, 0
    for index, size in enumerate(sizes):
        if start < index and total + size > limit:
            yield range(start, index)
            start, total = index, 0
        total += size
    if sizes:
        yield range(start, len(sizes))
