# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""SIGTERM, by which a machine is taken back, as something that training answers."""

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
"""With which a run ends that was told to."""
_NOTICE = b'SIGTERM: the run ends after this iteration, with a checkpoint; a second ends it now\n'


class StopRequest:
    """From :meth:`listen` on, a first SIGTERM to this process ends nothing but is remembered."""

    def __init__(self) -> None:
        self.received = False
        self._before: Any = None

    def listen(self) -> None:
        """Only a process's main thread can; in another one nothing changes."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._remember)

    def forget(self) -> None:
        """SIGTERM does again what it did before."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _remember(self, *_: Any) -> None:
        self.received = True
        self.forget()
        os.write(2, _NOTICE)

    def anywhere(self) -> bool:
        """Whether any process has received it; all have to ask, and get the same answer."""
        received = torch.tensor(float(self.received))
        all_reduce(received, 'max')
        return bool(received)


def leave_no_handler(runner: Any) -> None:
    """Whatever ends a runner's training: SIGTERM then does again what it did before."""
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
    """Let the workers of all data loaders that a runner builds be process groups of their own, and
    end with the run.

    A signal to the run's whole group (of Slurm, torchrun or a terminal) is the run's to answer. It
    would end its workers, and their end the run, in the middle of an iteration. On the other hand
    torch's workers outlive a run that was killed, waiting for their last batches to be read.
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
