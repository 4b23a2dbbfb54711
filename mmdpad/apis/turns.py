# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Threads that take turns."""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """A lock that threads get in the order in which they ask for it (``with``). It is not
    reentrant."""

    def __init__(self) -> None:
        self._queue: deque[object] = deque()  # the first has its turn
        self._change = threading.Condition()

    def __enter__(self) -> None:
        me = object()
        with self._change:
            self._queue.append(me)
            try:
                self._change.wait_for(lambda: self._queue[0] is me)
            except BaseException:  # such as KeyboardInterrupt
                self._leave(me)
                raise

    def __exit__(self, *error: object) -> None:
        with self._change:
            self._leave(self._queue[0])

    @property
    def wanted(self) -> bool:
        """Whether a thread waits for its turn."""
        return len(self._queue) > 1

    def _leave(self, who: object) -> None:
        self._queue.remove(who)
        self._change.notify_all()
