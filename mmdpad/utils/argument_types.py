# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Whether values of a config are what the arguments of a class are annotated with."""

from __future__ import annotations

import inspect
import os
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

_CONTAINERS = (dict, list, tuple)


def find_wrong_types(kind: type, given: Mapping[str, Any], where: str) -> Iterator[str]:
    """The values that are of no type which a class says that it takes.

    Only plain types are compared, and loosely, as a config may write them: a list and a tuple are
    one, and so are whole numbers of either kind. What is annotated otherwise may be anything.

    Args:
        kind: What takes the arguments.
        given: Values by the names of arguments; others are passed over.
        where: The place of ``given`` in the config, with dots; '' for the config itself.

    Yields:
        A sentence for each, with key, value and remedy.
    """
    hints: dict[str, Any] = {}
    for base in reversed(kind.__mro__):  # what a class does not name it hands on to its bases
        if '__init__' in vars(base):
            with suppress(NameError, TypeError):  # a name that is imported for type checkers only
                hints |= typing.get_type_hints(base.__init__)
    for name, value in given.items():
        kinds = _plain_types(hints.get(name, Any))
        if kinds is None or _fits(value, kinds):
            continue
        key = f'{where}.{name}' if where else name
        names = ' or '.join(one.__name__.replace('NoneType', 'None') for one in kinds)
        shown = repr(value) if len(repr(value)) <= 200 else repr(value)[:200] + '...'
        remedy = 'correct it'
        if dict in kinds and not isinstance(value, dict):
            remedy = f"on a command line: '{key}=dict(name=value)'"
        elif str in kinds:
            remedy = f"quotes make a text of it on a command line: '{key}=\"...\"'"
        yield f'`{key}` should be {names}, but got {shown}; {remedy}'


def _plain_types(hint: Any) -> tuple[type, ...] | None:
    """The types that a hint allows; None where it allows what cannot be compared."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [_plain_types(part) for part in typing.get_args(hint)]
        kinds = tuple(kind for part in parts for kind in part or ())
        # Another class beside dict is what is built of it, which no config holds.
        return kinds if None not in parts or dict in kinds else None
    if typing.get_origin(hint) in _CONTAINERS:
        hint = typing.get_origin(hint)
    if inspect.isclass(hint) and issubclass(hint, os.PathLike):
        hint = str
    return (hint, ) if hint in (*_CONTAINERS, str, bool, int, float, type(None)) else None


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, (list, tuple)):
        return list in kinds or tuple in kinds
    if isinstance(value, (bool, int, float)):
        whole = value == value // 1
        return float in kinds or (bool in kinds or int in kinds) and (
            whole or type(value) in kinds)
    return isinstance(value, kinds) or not isinstance(value, (str, dict, type(None)))
