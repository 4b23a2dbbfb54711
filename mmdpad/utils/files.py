# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Result files: complete or absent, and never overwriting an earlier one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import os.path as osp
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

UNFINISHED = '.unfinished'
_FOLDERS = re.compile(r'(?<![\w.])/(?:[^/\s]+/)+')  # of an absolute path, also inside a text


def strip_folders(text: str) -> str:
    """Absolute paths in a text by their last part, so that it is the same on another machine."""
    return _FOLDERS.sub('', text)


def unique_path(path: str, *beside: str) -> str:
    """``path`` if it is free, else the first free one of name_2.ext, name_3.ext, ...; it must also
    be free with each extension in ``beside`` (given with its dot)."""
    return next(name for name in _numbered(path) if not any(map(osp.lexists, (
        name, *(osp.splitext(name)[0] + extension for extension in beside)))))


def unique_name(name: str, taken: set[str]) -> str:
    """:func:`unique_path` among the names in ``taken``, to which the result is added."""
    name = next(name for name in _numbered(name) if name not in taken)
    taken.add(name)
    return name


def _numbered(path: str) -> Iterator[str]:
    stem, extension = osp.splitext(path)
    yield path
    yield from (f'{stem}_{number}{extension}' for number in itertools.count(2))


def nearest_folder(path: str | os.PathLike) -> Path:
    """``path`` itself, or its nearest parent folder that exists."""
    path = Path(os.path.abspath(path))
    return next(folder for folder in (path, *path.parents) if folder.exists())


@contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A folder to fill. It appears at ``path`` if the block succeeds and not at all if it fails;
    the same applies to missing parent folders.

    Raises:
        FileExistsError: ``path`` exists; it is left unchanged.
    """
    path = Path(os.path.abspath(path))
    refuse_existing(path)
    building = Path(tempfile.mkdtemp(prefix=f'.{path.name}-', dir=nearest_folder(path.parent)))
    try:
        folder = building / path.name
        folder.mkdir()
        yield folder
        refuse_existing(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(path)
    finally:
        shutil.rmtree(building)


def refuse_existing(path: str | os.PathLike) -> None:
    """Raise FileExistsError with a clear message if ``path`` exists."""
    if osp.lexists(path):
        raise FileExistsError(f'{path} already exists; remove it or name another folder')


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write. It replaces ``path`` when the block succeeds: a process killed at any time
    leaves either the old file or the new one, complete and on disk.

    The data a killed process wrote stay beside it as ``path`` with :data:`UNFINISHED` appended.
    """
    path = os.fspath(path)
    unfinished = path + UNFINISHED
    try:
        with open(unfinished, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.remove(unfinished)
        raise
    folder = os.open(osp.dirname(osp.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_atomically(path: str, content: bytes) -> str:
    """Write a file and its parent folders so that a reader sees either all of it or nothing.

    Returns:
        Where it was written: ``unique_path(path)``.
    """
    os.makedirs(osp.dirname(osp.abspath(path)), exist_ok=True)
    path = unique_path(path)
    with atomic_file(path) as file:
        file.write(content)
    return path


def write_jsonl(path: str, rows: Iterable[dict]) -> str:
    """:func:`write_atomically` of :func:`to_jsonl`."""
    return write_atomically(path, to_jsonl(rows))


def to_jsonl(rows: Iterable[dict]) -> bytes:
    """JSON lines (UTF-8), converted by :func:`jsonable`."""
    lines = [json.dumps(jsonable(row), ensure_ascii=False, allow_nan=False) + '\n' for row in rows]
    # A lone surrogate, which model text may contain, is written as its JSON escape.
    return ''.join(lines).encode('utf-8', 'backslashreplace')


def read_jsonl(path: str) -> Iterator[dict]:
    """Yield the objects in a JSON lines file. An unreadable last line, which a killed run may
    leave cut off, is skipped.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Another line is not a JSON object.
    """
    fault = ''
    with open(path, encoding='utf-8', errors='replace') as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            if fault:
                raise ValueError(fault)
            wanted = f'{path} should hold one JSON object per line, but line {number} is'
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                fault = f'{wanted} not: {line[:80]!r}'
                continue
            if not isinstance(row, dict):
                raise ValueError(f'{wanted} {type(row).__name__}')
            yield row


def jsonable(value: Any) -> Any:
    """Convert tensors, arrays, tuples and dataclasses to plain JSON data; non-finite numbers become
    None.

    Raises:
        TypeError: A value has no JSON form.
    """
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return jsonable(dataclasses.asdict(value))
    if hasattr(value, 'tolist'):  # NumPy and torch, without importing them
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f'Results should be plain data, but got {type(value).__name__}: {value!r}')
