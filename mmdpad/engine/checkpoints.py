# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checkpoint files: written whole, and found whole."""

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

_WRITERS = (mmengine.runner.checkpoint, mmengine.runner.runner)  # each has the name of its own
PLAIN_FILE = 'plain.pth'  # in a folder of parts: everything but the tensors
_NUMBERED = re.compile(r'(?:iter|epoch)_(\d+)\.pth')


@contextmanager
def written_atomically() -> Iterator[None]:
    """Within the block mmengine writes local checkpoints by :func:`atomic_file`, straight to disk.

    Its own writer first lays the file out in memory, twice, and a kill leaves half a file.
    """
    write = mmengine.runner.checkpoint.save_checkpoint

    def save_checkpoint(checkpoint: dict, filename: str, *args: Any, **kwargs: Any) -> None:
        if '://' in filename:
            return write(checkpoint, filename, *args, **kwargs)
        Path(filename).parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(filename) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # of the end mark that torch cannot write either
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


def find_whole_checkpoint(folder: str) -> tuple[str | None, dict[str, str]]:
    """The checkpoint from which a run in ``folder`` can go on.

    That is the one that the file ``last_checkpoint`` names, by its last part, if it is whole, else
    the one with the highest number that is. Best-so-far checkpoints have no optimizer and do not
    count.

    Returns:
        Its path, or None; and what is wrong with those that were passed over, by path.
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
    """Why a checkpoint cannot be read, in one line; None if it can. Its tensors are not read, so
    that this takes no time and no memory."""
    if osp.isdir(path):
        return None  # of a strategy that writes folders
    try:
        load_safe(path)
    except ValueError as error:
        return first_line(error)
    return None


def read_meta(path: str) -> dict[str, Any]:
    """The ``meta`` of a checkpoint, a file or a folder of parts: ``seed``, ``iter``, ``cfg`` etc.;
    empty if it holds only weights."""
    plain = osp.join(path, PLAIN_FILE) if osp.isdir(path) else path
    checkpoint = load_safe(plain) if osp.isfile(plain) else None
    return (isinstance(checkpoint, dict) and checkpoint.get('meta')) or {}
