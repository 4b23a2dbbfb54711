# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The device that gpu_step.py measures on, with its clock, its memory and its limits."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


class Device:
    """A device with its clock and its memory."""

    def __init__(self, name: str) -> None:
        self.device = torch.device(name)
        self.is_cuda = self.device.type == 'cuda'
        self.seconds: dict[str, float] = defaultdict(float)

    def synchronize(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Add the duration of the block to ``seconds[name]``."""
        self.synchronize()
        start = time.perf_counter()
        yield
        self.synchronize()
        self.seconds[name] += time.perf_counter() - start

    def repeat(self, function: Callable[[], Any], repeats: int) -> dict[str, list[float]]:
        """Run a function repeatedly after one warm-up; the peak of memory excludes the warm-up.

        Returns:
            Name -> seconds of each run, for ``total`` and for the clocks inside.
        """
        runs = []
        for number in range(repeats + 1):
            if self.is_cuda and number == 1:
                torch.cuda.reset_peak_memory_stats(self.device)
            self.seconds.clear()
            with self.clock('total'):
                function()
            runs.append(dict(self.seconds))
        return {name: [run[name] for run in runs[1:]] for name in runs[0]}

    def profile(self, function: Callable[[], Any], rows: int) -> list[dict[str, Any]]:
        """The most expensive operations of a run: name, calls, and self time on the device and on
        the CPU in milliseconds. If the CPU's total is larger, launches are the bottleneck."""
        kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self.is_cuda
        with profile(activities=kinds) as found:
            function()
            self.synchronize()
        events = found.key_averages()
        own = 'self_device_time_total' if self.is_cuda else 'self_cpu_time_total'
        return [dict(name=event.key, calls=event.count, cpu_ms=event.self_cpu_time_total / 1e3,
                     device_ms=event.self_device_time_total / 1e3)
                for event in sorted(events, key=lambda e: -getattr(e, own))[:rows]]

    def allocated(self) -> int | None:
        """Allocated bytes, if the device reports them."""
        return torch.cuda.memory_allocated(self.device) if self.is_cuda else None

    def peak_allocated(self) -> int | None:
        """Peak of allocated bytes since the warm-up."""
        return torch.cuda.max_memory_allocated(self.device) if self.is_cuda else None

    def free(self) -> None:
        """Free unreferenced memory."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()

    def limits(self, repeats: int) -> dict[str, Any]:
        """What the device can reach: FLOP/s of bfloat16 products of square matrices, and bytes
        read and written per second by a copy."""
        size, length = (8192, 2**30) if self.is_cuda else (256, 2**24)
        a, b, product = (torch.randn(size, size, device=self.device).bfloat16() for _ in range(3))
        source = torch.zeros(length, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        products = self.repeat(lambda: _ten_times(lambda: torch.mm(a, b, out=product)), repeats)
        copies = self.repeat(lambda: _ten_times(lambda: target.copy_(source)), repeats)
        properties = torch.cuda.get_device_properties(self.device) if self.is_cuda else None
        return dict(name=properties.name if properties else str(self.device),
                    memory_bytes=properties.total_memory if properties else None,
                    cuda=torch.version.cuda, matmul_size=size,
                    matmul_flops=10 * 2 * size**3 / min(products['total']),
                    bandwidth=10 * 2 * length / min(copies['total']))


def _ten_times(function: Callable[[], Any]) -> None:
    for _ in range(10):
        function()
