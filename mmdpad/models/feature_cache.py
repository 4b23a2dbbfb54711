# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A cache of the features of recent images, keyed by image content."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import numpy as np


class FeatureCache:
    """A least-recently-used cache of features, one for each distinct content.

    A cache belongs to one model in one state: code that changes the model must call :meth:`clear`.

    Args:
        capacity: Number of features kept between calls. With 0, only equal contents within one
            call are computed once.

    Raises:
        ValueError: The capacity is negative.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise ValueError(f'The size of a cache should be 0 (nothing is kept) or more, but got '
                             f'{capacity}; set `cache_size` to such a number')
        self.capacity = capacity
        self._kept: OrderedDict[bytes, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        self._kept.clear()

    @contextmanager
    def keeping(self, number: int) -> Iterator[None]:
        """Keep at least so many features between the calls within the block."""
        capacity, self.capacity = self.capacity, max(self.capacity, number)
        try:
            yield
        finally:
            self.capacity = capacity
            self._forget()

    def lookup(self, contents: Sequence[np.ndarray],
               compute: Callable[[list[np.ndarray]], Iterable[Any]]) -> list[Any]:
        """Return the feature of each content.

        Args:
            contents: P arrays. An array's type and shape are part of its content.
            compute: Maps the distinct contents that are not cached, in order of appearance, to one
                feature each. Called once, and only if there are any. The features are stored
                without copying, so a view keeps its whole batch in memory.

        Returns:
            P features; equal contents share one object.
        """
        keys = [content_key(content) for content in contents]
        known = {key: self._kept[key] for key in keys if key in self._kept}
        new = {key: content for key, content in zip(keys, contents, strict=True)
               if key not in known}
        if new:
            known.update(zip(new, compute(list(new.values())), strict=True))
        for key in keys:
            self._kept[key] = known[key]
            self._kept.move_to_end(key)
        self._forget()
        return [known[key] for key in keys]

    def _forget(self) -> None:
        while len(self._kept) > self.capacity:
            self._kept.popitem(last=False)


def content_key(array: np.ndarray) -> bytes:
    """Hash an array's type, shape and values, regardless of its memory layout."""
    key = blake2b(f'{array.dtype.str} {array.shape}'.encode(), digest_size=16)
    key.update(np.ascontiguousarray(array))  # type: ignore[arg-type]
    return key.digest()
