# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A run's work dir: one training at a time, and its contents: ``TIME/`` for each start, with
``TIME/vis_data/`` in it."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

_ALARM = re.compile(r' - WARNING - Alarm (.+)')
_PICTURE = re.compile(r'val_answer_(\d+)_(\d+)\.png')


@contextmanager
def lock_work_dir(work_dir: str | Path) -> Iterator[None]:
    """Keep other training runs out of a work dir, where they would overwrite each other's
    checkpoints.

    The lock belongs to the process: it ends with the process in any case, and workers do not
    inherit it. On a file system without locks there is none.

    Raises:
        SystemExit: Another process holds the lock (the file ``.lock`` says which), or the work dir
            is not writable.
    """
    try:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        file = Path(work_dir, '.lock').open('a+')  # noqa: SIM115
    except OSError as error:
        raise SystemExit(f'{str(work_dir)!r} cannot be written to ({error.strerror}); name another '
                         f'folder with --work-dir') from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise SystemExit(
                    f'another training writes to {str(work_dir)!r} ({file.read().strip()}): wait '
                    f'until it ends, or name another folder with --work-dir') from None
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}, since '
                   f'{datetime.now():%Y-%m-%d %H:%M:%S}\n')
        file.flush()
        yield


def training_logs(work_dir: str | Path) -> list[Path]:
    """Files with the logged numbers of a run, oldest first; a resumed run has several. Tests write
    none."""
    return [path for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
            if path.stat().st_size]


def rollout_logs(work_dir: str | Path) -> list[Path]:
    """The logs that :class:`RolloutLogHook` wrote in the first process, oldest first."""
    return sorted(Path(work_dir).glob('*/rollouts.jsonl'))


def raised_alarms(work_dir: str | Path) -> list[str]:
    """The messages of :class:`AlarmHook` in chronological order; a message that a resumed run
    repeats is listed once."""
    found = [match[1] for path in sorted(Path(work_dir).glob('*/*.log'))
             for match in _ALARM.finditer(path.read_text(encoding='utf-8', errors='replace'))]
    return list(dict.fromkeys(found))


def answer_pictures(work_dir: str | Path) -> dict[int, dict[int, Path]]:
    """The pictures that :class:`ReasonSegVisualizationHook` drew in validation: sample ->
    iteration -> file, both ascending; if an iteration has two, the later one."""
    found: dict[int, dict[int, Path]] = defaultdict(dict)
    for path in sorted(Path(work_dir).glob('*/vis_data/vis_image/*.png')):
        if match := _PICTURE.fullmatch(path.name):
            found[int(match[1])][int(match[2])] = path
    return {sample: dict(sorted(by_step.items())) for sample, by_step in sorted(found.items())}
