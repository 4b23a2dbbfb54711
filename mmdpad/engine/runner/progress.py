# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A progress bar for evaluations."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from mmengine.dist import is_main_process
from tqdm import tqdm


@contextmanager
def progress_bar(total: int, description: str, logger: logging.Logger) -> Iterator[tqdm]:
    """Show a bar below the log that counts samples and shows the time left.

    Only the main process shows a bar, and only if stderr is a terminal. Otherwise there is only the
    log, whose lines have their own ``eta``.

    Args:
        total: The number of samples of this process.
        description: The text before the bar.
        logger: The logger whose lines on the console go above the bar.
    """
    bar = tqdm(total=total, desc=description, unit='sample', dynamic_ncols=True,
               disable=None if is_main_process() else True)
    # Not files, whose handlers are subclasses.
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
    """A stream that clears the bars, writes, and redraws them."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        tqdm.write(text, file=self.stream, end='')

    def flush(self) -> None:
        self.stream.flush()
