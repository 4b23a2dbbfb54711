# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Sides of a benchmark in processes of their own, with this checkout's package or another's.

    git worktree add ../mmdpad_before COMMIT
    python tools/benchmarks/rollout.py --before ../mmdpad_before

Every side runs the script of this checkout; only the package it imports, `mmdpad`, is that of its
own checkout. A script therefore may only use what both packages have, or give an argument that is
new only to the sides of this checkout. A side takes each step on request, so the others are idle
meanwhile.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]


def add_before(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Add the option ``--before CHECKOUT`` to a benchmark."""
    parser.add_argument('--before', type=checkout, metavar='CHECKOUT', required=required,
                        help='also measure the package of another checkout, in turns')


def checkout(text: str) -> Path:
    """The absolute path of a checkout (argparse reports what is none)."""
    path = Path(text).resolve()
    if not (path / 'mmdpad' / '__init__.py').is_file():
        raise argparse.ArgumentTypeError(
            f'{text!r} should be a checkout of mmdpad, but has no mmdpad/__init__.py')
    return path


def builds(args: argparse.Namespace) -> dict[str, Path]:
    """Side -> checkout: ``mmdpad`` (this one) and, with ``--before``, ``before``."""
    return dict(mmdpad=ROOT) | (dict(before=args.before) if args.before else {})


@contextmanager
def imports_from(tree: Path) -> Iterator[None]:
    """Let new Python processes import ``mmdpad`` from a checkout, and these scripts from this
    one."""
    path, variable = sys.path[:], os.environ.get('PYTHONPATH')
    sys.path[:0] = [str(tree), str(ROOT / 'tools' / 'benchmarks')]  # what `multiprocessing` passes
    os.environ['PYTHONPATH'] = str(tree)
    try:
        yield
    finally:
        sys.path[:] = path
        if variable is None:
            del os.environ['PYTHONPATH']
        else:
            os.environ['PYTHONPATH'] = variable


def peak_memory() -> float:
    """Peak memory of this process in MB since it started, or since :func:`forget_peak` (Linux)."""
    status = Path('/proc/self/status').read_text()
    return int(re.search(r'VmHWM:\s*(\d+) kB', status)[1]) / 1024


def forget_peak() -> None:
    """Restart the measurement of :func:`peak_memory`."""
    Path('/proc/self/clear_refs').write_text('5')


class Step(NamedTuple):
    """What one step of a side took."""
    seconds: float
    cpu_seconds: float
    """Processor time of the process, which other programs disturb less."""
    peak_memory_mb: float
    """The most memory of the process during the step."""


class Worker:
    """A side in a process of its own, which takes each step on request.

    Args:
        tree: The checkout whose package it imports.
        side: ``side(turns, *args) -> facts``, a function at the top level of the script. It takes
            each step within ``turns.step()``, or between ``turns.wait()`` and ``turns.done()``, and
            returns a dict about the run.
        args: Further arguments.
    """

    def __init__(self, tree: Path, side: Callable[..., dict[str, Any]], *args: Any) -> None:
        context = multiprocessing.get_context('spawn')
        self.name = f'{side.__name__} with {tree}'
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=run_worker, args=(theirs, tree, side, *args),
                                       daemon=True)
        with imports_from(tree):
            self.process.start()
        theirs.close()

    def step(self) -> Step:
        """Have one step taken, and wait until it ends.

        Raises:
            RuntimeError: The process has ended; its own error is on stderr.
        """
        try:
            self.pipe.send(None)
            return self.pipe.recv()
        except (EOFError, BrokenPipeError) as error:
            raise self._ended() from error

    def finish(self) -> dict[str, Any]:
        """The facts that the side returns after its last step.

        Raises:
            RuntimeError: The process has ended without; its own error is on stderr.
        """
        try:
            facts = self.pipe.recv()
        except EOFError as error:
            raise self._ended() from error
        self.process.join()
        return facts

    def _ended(self) -> RuntimeError:
        self.process.join()
        return RuntimeError(f'{self.name} should take a step on each request and then return, but '
                            f'its process ended with status {self.process.exitcode}; its error is '
                            f'printed above')


class Turns:
    """The other end of a :class:`Worker`, in its process."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def wait(self, *_: Any, **__: Any) -> None:
        """Wait for the request of the next step. A callback: arguments are ignored."""
        self.pipe.recv()
        forget_peak()
        self.start = time.perf_counter(), time.process_time()

    def done(self, *_: Any, **__: Any) -> None:
        """Report what the step took. A callback: arguments are ignored."""
        seconds, cpu_seconds = (now - then for now, then in zip(
            (time.perf_counter(), time.process_time()), self.start, strict=True))
        self.pipe.send(Step(seconds, cpu_seconds, peak_memory()))

    @contextmanager
    def step(self) -> Iterator[None]:
        """One step: its block runs once it is requested."""
        self.wait()
        yield
        self.done()


def run_worker(pipe: Connection, tree: Path, side: Callable[..., dict[str, Any]],
               *args: Any) -> None:
    """The main function of a :class:`Worker`'s process."""
    import mmdpad
    if not Path(mmdpad.__file__).resolve().is_relative_to(tree):
        raise RuntimeError(f'`mmdpad` should be that of {tree}, but it is {mmdpad.__file__}')
    sys.stdout = sys.stderr  # what a side prints is not part of the result
    pipe.send(side(Turns(pipe), *args))


def compare(workers: dict[str, Worker], repeats: int,
            warm_up: int = 1) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Have workers take their steps in turns.

    Args:
        workers: By name, ``mmdpad`` first; they take ``warm_up + repeats`` steps.
        repeats: Measured steps of each.
        warm_up: Steps before those.

    Returns:
        The result to print (:func:`common.summary` of the seconds; ``cpu_time``, that of the
        processor time; ``warm_up``, the seconds of those steps; ``peak_memory_mb``, the most of the
        measured steps, by name), and the facts of each side by name.
    """
    from common import summary
    steps: dict[str, list[Step]] = {name: [] for name in workers}
    for _ in range(warm_up + repeats):
        for name, worker in workers.items():
            steps[name].append(worker.step())
    facts = {name: worker.finish() for name, worker in workers.items()}
    measured = {name: list(zip(*taken[warm_up:], strict=True)) for name, taken in steps.items()}
    seconds, cpu_seconds, memory = ({name: list(columns[number])
                                     for name, columns in measured.items()} for number in range(3))
    return dict(summary(seconds), cpu_time=summary(cpu_seconds),
                warm_up={name: [step.seconds for step in taken[:warm_up]]
                         for name, taken in steps.items()},
                peak_memory_mb={name: max(values) for name, values in memory.items()}), facts
