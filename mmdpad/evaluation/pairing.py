# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Matches the lines of two result files that are about the same sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from mmdpad.prompts import normalize_question

SHOWN = 5
# Id as text, normalized question, and the number of earlier samples with the same two.
Key = tuple[str, str, int]


def number_samples(samples: Iterable[tuple[Any, str | None]]) -> list[Key]:
    """A unique key for each (id, question). A data set may ask the same question about an image
    twice and mean different objects. Results of plain mmdet models have no question (None).
    """
    seen: Counter[tuple[str, str]] = Counter()
    keys = []
    for identifier, question in samples:
        pair = (str(identifier), normalize_question(question or ''))
        keys.append((*pair, seen[pair]))
        seen[pair] += 1
    return keys


def show_keys(keys: Sequence[Key]) -> str:
    """The number of keys and the first few, for a message."""
    shown = ', '.join(f'{identifier!r} {question[:40]!r}' for identifier, question, _ in
                      keys[:SHOWN])
    return f'{len(keys)} ({shown}{", ..." if len(keys) > SHOWN else ""})'
