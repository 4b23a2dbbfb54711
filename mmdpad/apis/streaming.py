# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Stream a response while it is being written."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .answer import Answer

Streamer = Callable[[Tensor], None]


class Stopped(BaseException):
    """Ends the sampling of a response that nobody is waiting for."""


def stream(answer: Callable[[Streamer], Answer],
           decode: Callable[[Tensor], list[str]] | None) -> Iterator[str | Answer]:
    """Run ``answer`` in a thread while the caller receives the growing text.

    Args:
        answer: Has the model answer one question, as :meth:`RolloutEngine.streaming` says.
        decode: Token ids (N, R), long, -> N texts. None: yield only the result.

    Yields:
        The response so far, without the bytes of an incomplete character; finally the result of
        ``answer``. Tokens that arrive while the caller is busy are yielded together.
    """
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stopped = threading.Event()

    def streamer(tokens: Tensor) -> None:
        if stopped.is_set():
            raise Stopped
        if decode is not None:
            found.put(tokens.item())

    def work() -> None:
        try:
            found.put(answer(streamer))
        except BaseException as error:
            found.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    tokens: list[int] = []
    text = ''
    try:
        while True:
            item = found.get()
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Answer):
                yield item
                return
            tokens.append(item)
            if decode is not None and found.empty():
                longer = decode(torch.tensor([tokens]))[0].rstrip('\N{REPLACEMENT CHARACTER}')
                if len(longer) > len(text):
                    text = longer
                    yield text
    finally:
        stopped.set()
        thread.join()
