# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Handles SIGTERM, which clusters send to preempt a run, so that training ends cleanly."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_reduce

STATUS = 128 + signal.SIGTERM
"""Exit status of a run that ends because of SIGTERM."""
_NOTICE = b'SIGTERM: the run ends after this iteration, with a checkpoint; a second ends it now\n'


class StopRequest:
    """Remembers the first SIGTERM after :meth:`listen`, which then does not end the process."""

    def __init__(self) -> None:
        self.received = False
        self._before: Any = None

    def listen(self) -> None:
        """Install the handler; does nothing outside the main thread, where Python allows none."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._remember)

    def forget(self) -> None:
        """Restore the previous handler of SIGTERM."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _remember(self, *_: Any) -> None:
        self.received = True
        self.forget()
        os.write(2, _NOTICE)

    def anywhere(self) -> bool:
        """Whether any process has received SIGTERM: a collective call with one result for all."""
        received = torch.tensor(float(self.received))
        all_reduce(received, 'max')
        return bool(received)


def leave_no_handler(runner: Any) -> None:
    """Restore the handler of SIGTERM when a runner's training ends, however it ends."""
    train = runner.train

    def train_and_restore(*args: Any, **kwargs: Any) -> Any:
        before = signal.getsignal(signal.SIGTERM)
        try:
            return train(*args, **kwargs)
        finally:
            if before is not None and signal.getsignal(signal.SIGTERM) is not before:
                signal.signal(signal.SIGTERM, before)

    runner.train = train_and_restore


def shield_workers(runner: Any) -> None:
    """Put each worker of the data loaders that a runner builds into its own process group, and end
    the workers with the run.

    A signal to the run's entire process group (from Slurm, torchrun or a terminal) is for the run
    to handle. Otherwise it would end the workers, whose end would stop the run in the middle of an
    iteration. Conversely, torch's workers outlive a killed run, waiting for their last batches to
    be read.
    """
    build = runner.build_dataloader

    def build_dataloader(*args: Any, **kwargs: Any) -> Any:
        loader = build(*args, **kwargs)
        loader.worker_init_fn = partial(_start_apart, loader.worker_init_fn)
        return loader

    runner.build_dataloader = build_dataloader


def _start_apart(start: Callable[[int], None] | None, worker: int) -> None:
    os.setpgrp()
    threading.Thread(target=_end_with, args=(os.getppid(), ), daemon=True).start()
    if start is not None:
        start(worker)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
