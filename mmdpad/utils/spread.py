# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Pick a few items out of many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar('T')


def spread(items: Iterable[T], number: int) -> list[T]:
    """At most ``number`` of the items, evenly spread and including the first and the last; if
    ``number`` is 1, the first."""
    items = list(items)
    number = min(number, len(items))
    return [items[round(i * (len(items) - 1) / max(number - 1, 1))] for i in range(number)]
