# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Names of classes, as data sets and models spell them."""

from __future__ import annotations

from collections.abc import Iterable


def normalize_label(name: str) -> str:
    """The form in which names of classes are compared: without case, surrounding whitespace and
    underscores, and with single spaces.

    >>> normalize_label(' Hot_Dog ')
    'hot dog'
    """
    return ' '.join(name.casefold().replace('_', ' ').split())


def find_clashing_labels(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Find names that :func:`normalize_label` cannot tell apart.

    >>> find_clashing_labels(['hot dog', 'cup', 'hot_dog'])
    [('hot dog', 'hot_dog')]
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(normalize_label(name), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]
