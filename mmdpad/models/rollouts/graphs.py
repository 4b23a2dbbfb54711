# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Decoding steps as CUDA graphs: one launch in place of one for each operation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .prefix_cache import Feed, PrefixCache

Step = Callable[[PrefixCache, Feed, Tensor, tuple[Tensor, Tensor]], Tensor]
"""See :func:`.decoding.decode_step`."""
Replay = Callable[[], object]
Capture = Callable[[Callable[[], Tensor]], tuple[Replay, Tensor]]
"""Captures a function; returns what runs it again, and the tensor that then has its result."""


class CapturedSteps:
    """Captures a decoding step once for each kind of feed, and replays it.

    A graph reads and writes fixed addresses: buffers for the tokens, and the tensors of the cache,
    which stay in place until it grows or samples leave; then new graphs are captured. Feeds with
    different numbers of tokens per sample are not captured.

    Args:
        step: The step. It should read nothing from the device.
        capture: By default :class:`CUDACapture`.

    Attributes:
        captures, replays: How many there have been.
    """

    def __init__(self, step: Step, capture: Capture | None = None) -> None:
        self.step = step
        self.capture = capture or CUDACapture()
        self.captures = self.replays = 0
        self._version: tuple[int, ...] = ()
        self._graphs: dict[int, tuple[Feed, Tensor, Replay, Tensor]] = {}

    def __call__(self, cache: PrefixCache, feed: Feed, starts: Tensor,
                 rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Run the step. The logits are overwritten by the next step with as many tokens."""
        if not feed.is_full:
            return self.step(cache, feed, starts, rotary)
        version = cache.version, *(table.data_ptr() for table in rotary)
        if version != self._version:
            self._graphs.clear()
            self._version = version
        if feed.width not in self._graphs:
            static = feed._replace(tokens=feed.tokens.clone())
            own_starts = starts.clone()
            replay, logits = self.capture(lambda: self.step(cache, static, own_starts, rotary))
            self._graphs[feed.width] = static, own_starts, replay, logits
            self.captures += 1
        static, own_starts, replay, logits = self._graphs[feed.width]
        static.tokens.copy_(feed.tokens)
        own_starts.copy_(starts)
        replay()
        self.replays += 1
        return logits


class CUDACapture:
    """Captures CUDA graphs that share one pool of memory, since only one runs at a time."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        """See :data:`Capture`. The function runs once before, which allocates the workspaces of
        libraries."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            result = function()
        return graph.replay, result
