# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""As many threads as there are free cores, for tiny models."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import nn

TINY = 10_000_000
"""Below this number of parameters, the number of threads follows the free cores. The shipped toy
models give the same bits with 1, 2 and 4 threads; another model may not."""
SET_BY_USERS = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')
SHORTEST = 0.2  # seconds; the system counts processor time in hundredths of a second


class FreeCores:
    """Gives torch as many threads as there are free cores, and at least one.

    OpenMP threads spin while they wait for each other. If another program occupies the core of
    one thread, all others wait for it, at each of thousands of small operations: two threads on
    two cores beside one busy process take four times as long as one thread
    (docs/performance.md).

    Args:
        most: The largest number of threads; None for the current number.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most or torch.get_num_threads()
        self._last = _times()

    def adapt(self) -> int:
        """Set the number of threads for operations of the calling thread according to the load of
        other programs since the last call (at least 0.2 s ago; otherwise nothing changes).

        Returns:
            The number of threads, from 1 to ``most``.
        """
        now = _times()
        clock, idle, own = (after - before for after, before in zip(now, self._last, strict=True))
        if clock >= SHORTEST:
            self._last = now
            free = idle + own  # seconds of processor time that were ours or unused
            torch.set_num_threads(min(self.most, max(1, round(free / clock))))
        return torch.get_num_threads()

    def restore(self) -> None:
        """Restore the largest number, for other work of the calling thread."""
        torch.set_num_threads(self.most)

    @contextmanager
    def adapted(self) -> Iterator[None]:
        """:meth:`adapt` for a block, then :meth:`restore`."""
        self.adapt()
        try:
            yield
        finally:
            self.restore()


def follow_free_cores(model: nn.Module) -> FreeCores | None:
    """Make the number of threads follow the free cores while ``model`` runs. Returns None if it
    should not change: on a GPU, for a model that is not tiny (:data:`TINY`), with one thread, if
    ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS`` is set, or if the system does not count the idle
    time of its cores (gVisor)."""
    parameters = list(model.parameters())
    if (any(name in os.environ for name in SET_BY_USERS) or torch.get_num_threads() == 1
            or any(parameter.device.type != 'cpu' for parameter in parameters)
            or sum(parameter.numel() for parameter in parameters) >= TINY):
        return None
    _, idle, _ = _times()
    return FreeCores() if idle > 0 else None


def _times() -> tuple[float, float, float]:
    """Seconds: wall clock, idle time of the cores that this process may use, and processor time
    that all its threads have used."""
    cores = psutil.cpu_times(percpu=True)
    if hasattr(os, 'sched_getaffinity'):  # Linux
        allowed = os.sched_getaffinity(0)
        # Containers may renumber their cores (LXC); the counts differ if only some are allowed.
        if len(allowed) != len(cores):
            cores = [core for number, core in enumerate(cores) if number in allowed]
    idle = sum(core.idle + getattr(core, 'iowait', 0.0) for core in cores)
    return time.monotonic(), idle, time.process_time()
