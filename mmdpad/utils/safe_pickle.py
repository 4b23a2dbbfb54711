# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Pickles that contain only data.

A pickle is a program: opening an untrusted one with :func:`pickle.load` runs its author's code.
Lists, dicts, text and numbers need none of the operations that can do harm, so a file with any
other operation is refused, and no name in it is looked up.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Operations that build None, bool, int, float, str, bytes, list, tuple, dict, set and frozenset.
_PLAIN = frozenset('''
    PROTO FRAME STOP MARK POP POP_MARK DUP PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
    NONE INT BININT BININT1 BININT2 LONG LONG1 LONG4 NEWTRUE NEWFALSE FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
    UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8
    EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET'''.split())
# These look up a name, and `find_class` refuses them by that name.
_NAMING = frozenset(('GLOBAL', 'STACK_GLOBAL', 'INST'))
# Exceptions of an unpickler for operations with an invalid order or arguments.
LOAD_ERRORS = (pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError,
               AttributeError, AssertionError, OverflowError, MemoryError, struct.error)


def load_safe_pickle(path: str | os.PathLike) -> Any:
    """Read a pickle of any protocol that holds plain data only.

    Plain are None, bool, int, float, str, bytes, list, tuple, dict, set and frozenset (sets as
    written by protocol 4 or newer). Python 2's ``str`` becomes ``str``: its bytes are read as UTF-8
    or, if any text is not valid UTF-8, all as Latin-1. A broken or hostile file runs no code, and
    memory use is limited to a few times its size.

    Raises:
        OSError: The file cannot be read.
        ValueError: It contains something else, is truncated or is not a pickle; the message names
            the file and the hint.
    """
    content = Path(path).read_bytes()
    try:
        try:
            return _PlainUnpickler(io.BytesIO(content), encoding='utf-8').load()
        except UnicodeDecodeError:
            return _PlainUnpickler(io.BytesIO(content), encoding='latin-1').load()
    except _NotPlain as error:
        raise ValueError(f'{path} should hold plain data only (lists, dicts, text, numbers), but '
                         f'{error}; if you trust the file, load it yourself, convert what it '
                         'holds (NumPy: `.tolist()` or `.item()`) and write it again') from None
    except LOAD_ERRORS as error:
        raise ValueError(f'{path} should be a complete pickle, but cannot be read as one '
                         f'({error!r}); download or write it again') from error


class _NotPlain(Exception):
    """The file may be a valid pickle, but it contains more than plain data."""


def _only_plain(code: int, load: Callable[[Any], None]) -> Callable[[Any], None]:
    """The handler of an operation: ``load`` it if plain data needs it, else refuse."""
    name = pickletools.code2op[chr(code)].name
    if name in _PLAIN | _NAMING:
        return load

    def refuse(unpickler: Any) -> None:
        raise _NotPlain(f'has the operation {name}')

    return refuse


class _PlainUnpickler(pickle._Unpickler):
    """Python's unpickler with its table of operations reduced to plain data.

    It is the pure Python version: the faster C version has no such table, and this one allocates
    memory for the data it has read, not for the size a file declares.
    """

    dispatch = {code: _only_plain(code, load)
                for code, load in pickle._Unpickler.dispatch.items()}

    def find_class(self, module: str, name: str) -> Any:
        raise _NotPlain(f'asks for {module}.{name}, which would run code')
