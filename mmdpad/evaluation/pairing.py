# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Which line of one file is about the same sample as which of another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from mmdpad.prompts import normalize_question

SHOWN = 5
# Id as text, normalized question, and how many samples before agree in both.
Key = tuple[str, str, int]


def number_samples(samples: Iterable[tuple[Any, str | None]]) -> list[Key]:
    """A key for each (id, question), different ones for all: a data set may ask the same of an
    image twice, meaning different objects. Models of mmdet that are asked nothing have no question.
    """
    seen: Counter[tuple[str, str]] = Counter()
    keys = []
    for identifier, question in samples:
        pair = (str(identifier), normalize_question(question or ''))
        keys.append((*pair, seen[pair]))
        seen[pair] += 1
    return keys


def show_keys(keys: Sequence[Key]) -> str:
    """How many, and the first few for a message."""
    shown = ', '.join(f'{identifier!r} {question[:40]!r}' for identifier, question, _ in
                      keys[:SHOWN])
    return f'{len(keys)} ({shown}{", ..." if len(keys) > SHOWN else ""})'
