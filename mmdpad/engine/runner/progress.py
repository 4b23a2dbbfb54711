# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How far an evaluation is, for who is watching."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from mmengine.dist import is_main_process
from tqdm import tqdm


@contextmanager
def progress_bar(total: int, description: str, logger: logging.Logger) -> Iterator[tqdm]:
    """A bar that counts samples and tells the time left, under the log's lines.

    Only the main process shows one, and only where stderr is a terminal: elsewhere there is
    nothing but the log, whose lines carry an ``eta`` of their own.

    Args:
        total: Samples of this process.
        description: What stands before the bar.
        logger: Its lines on the console go above the bar.
    """
    bar = tqdm(total=total, desc=description, unit='sample', dynamic_ncols=True,
               disable=None if is_main_process() else True)
    # Not files, whose handlers are of a subclass.
    handlers = [] if bar.disable else [
        handler for handler in logger.handlers if type(handler) is logging.StreamHandler]
    streams = [handler.stream for handler in handlers]
    for handler in handlers:
        handler.setStream(_AboveTheBar(handler.stream))
    try:
        with bar:
            yield bar
    finally:
        for handler, stream in zip(handlers, streams, strict=True):
            handler.setStream(stream)


class _AboveTheBar:
    """A stream that clears bars, writes, and draws them again."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        tqdm.write(text, file=self.stream, end='')

    def flush(self) -> None:
        self.stream.flush()
