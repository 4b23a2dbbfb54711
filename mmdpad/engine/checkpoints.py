# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Writes checkpoint files atomically, and finds complete ones."""

from __future__ import annotations

import os.path as osp
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmengine.runner.checkpoint
import mmengine.runner.runner
import torch

from mmdpad.models.weights import first_line, load_safe
from mmdpad.utils.files import atomic_file

_WRITERS = (mmengine.runner.checkpoint, mmengine.runner.runner)  # each has its own name for it
PLAIN_FILE = 'plain.pth'  # in a folder of shards: everything but the tensors
_NUMBERED = re.compile(r'(?:iter|epoch)_(\d+)\.pth')


@contextmanager
def written_atomically() -> Iterator[None]:
    """Let mmengine write local checkpoints with :func:`atomic_file`, straight to disk, within the
    block.

    mmengine's own writer first builds the file in memory, twice, and leaves a partial file when it
    is killed.
    """
    write = mmengine.runner.checkpoint.save_checkpoint

    def save_checkpoint(checkpoint: dict, filename: str, *args: Any, **kwargs: Any) -> None:
        if '://' in filename:
            return write(checkpoint, filename, *args, **kwargs)
        Path(filename).parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(filename) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch cannot write the end of the file either
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    for module in _WRITERS:
        module.save_checkpoint = save_checkpoint
    try:
        yield
    finally:
        for module in _WRITERS:
            module.save_checkpoint = write


def find_complete_checkpoint(folder: str) -> tuple[str | None, dict[str, str]]:
    """Find the checkpoint from which a run in ``folder`` can continue.

    This is the one whose file name ``last_checkpoint`` records, if it is complete; otherwise, the
    complete one with the highest number. Best-so-far checkpoints have no optimizer state and do not
    count.

    Returns:
        The path of the checkpoint, or None; and the faults of the skipped checkpoints, by path.
    """
    there = list(Path(folder).glob('*.pth'))
    numbered = {path: int(match[1]) for path in there
                if (match := _NUMBERED.fullmatch(path.name))}
    candidates = sorted(numbered, key=lambda path: numbered[path], reverse=True)
    said = Path(folder, 'last_checkpoint')
    if said.is_file():
        name = Path(said.read_text(errors='replace').strip()).name
        candidates = [path for path in there if path.name == name] + candidates
    faults: dict[str, str] = {}
    for path in map(str, dict.fromkeys(candidates)):
        fault = find_fault(path)
        if fault is None:
            return path, faults
        faults[path] = fault
    return None, faults


def find_fault(path: str) -> str | None:
    """Why a checkpoint cannot be read, in one line; None if it can. Tensors are not read, so this
    takes almost no time or memory."""
    if osp.isdir(path):
        return None  # written by a strategy that writes folders
    try:
        load_safe(path)
    except ValueError as error:
        return first_line(error)
    return None


def read_meta(path: str) -> dict[str, Any]:
    """The ``meta`` of a checkpoint (a file or a folder of shards): ``seed``, ``iter``, ``cfg``
    etc.; empty if the checkpoint holds only weights."""
    plain = osp.join(path, PLAIN_FILE) if osp.isdir(path) else path
    checkpoint = load_safe(plain) if osp.isfile(plain) else None
    return (isinstance(checkpoint, dict) and checkpoint.get('meta')) or {}
