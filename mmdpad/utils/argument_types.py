# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks config values against the annotations of a class's or a function's arguments."""

from __future__ import annotations

import collections.abc
import inspect
import math
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from torch import Tensor

_LISTS = (list, tuple)
# Annotations -> the plain types that represent them in a config.
_CONTAINERS = {dict: dict, list: list, tuple: tuple, collections.abc.Mapping: dict,
               collections.abc.Sequence: list}
_BY_DEFAULT = {bool: bool, int: float, float: float, str: str}
_PLAIN = (dict, list, tuple, str, bool, int, float, type(None))


def find_wrong_types(taker: Callable, given: Mapping[str, Any], where: str) -> Iterator[str]:
    """Find values whose types contradict the annotations of a class or a function.

    Only plain types are compared, also within lists and dicts, and as loosely as configs are
    written: lists equal tuples, whole floats equal integers, and 0 and 1 equal booleans, but no
    boolean is a number. An argument without an annotation takes values of its default's type; other
    annotations accept anything, and defaults are always accepted.

    Args:
        taker: The class or function.
        given: Values by argument; unknown arguments are ignored.
        where: The dotted key of ``given`` in the config; '' for the config itself.

    Yields:
        A sentence for each one, with key, value and hint.
    """
    hints, defaults = _read_signature(taker)
    for name, value in given.items():
        default = defaults.get(name, inspect.Parameter.empty)
        if name in hints and not (type(value) is type(default) and value == default):
            yield from _compare(value, hints[name], f'{where}.{name}' if where else name)


def read_defaults(taker: Callable) -> Mapping[str, Any]:
    """The arguments of a class, including those of its bases, or of a function, with their
    defaults; :attr:`inspect.Parameter.empty` for an argument without one."""
    return types.MappingProxyType(_read_signature(taker)[1])


@cache
def _read_signature(taker: Callable) -> tuple[dict[str, Any], dict[str, Any]]:
    """Annotations and defaults by argument."""
    functions = [taker]
    if inspect.isclass(taker):  # a class passes other arguments to its bases
        functions = [vars(base)['__init__'] for base in reversed(taker.__mro__)
                     if '__init__' in vars(base)]
    hints: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for function in functions:
        with suppress(TypeError, ValueError):  # not implemented in Python
            for name, one in inspect.signature(function).parameters.items():
                defaults[name] = one.default
                hints[name] = (_BY_DEFAULT.get(type(one.default), Any)
                               if one.annotation is one.empty else
                               _resolve(one.annotation, getattr(function, '__globals__', {})))
    return hints, defaults


def _resolve(annotation: Any, names: dict[str, Any]) -> Any:
    """The type that an annotation refers to; Any if a name in it is only imported for type
    checkers. Annotations are resolved one by one, so that a missing name does not hide the others.
    """
    holder = types.SimpleNamespace(__annotations__={'it': annotation})
    with suppress(NameError, TypeError, SyntaxError, AttributeError):
        return typing.get_type_hints(holder, names)['it']
    return Any


def _compare(value: Any, hint: Any, key: str) -> Iterator[str]:
    kinds = _plain_types(hint)
    if isinstance(value, float) and math.isnan(value):
        yield f'`{key}` should be a number, but got nan; correct it'
        return
    if kinds is None:
        return
    literals = [] if str in _parts(hint) else [
        one for part in _parts(hint) if typing.get_origin(part) is typing.Literal
        for one in typing.get_args(part)]
    if not _fits(value, kinds) or literals and isinstance(value, str) and value not in literals:
        yield _problem(key, value, [one for one in kinds if not (literals and one is str)],
                       literals)
        return
    inner = [part for part in _parts(hint) if typing.get_args(part) and _holds(part, value)]
    if len(inner) != 1:
        return
    arguments = typing.get_args(inner[0])
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _compare(item, arguments[-1], f'{key}.{name}')
    elif typing.get_origin(inner[0]) is tuple and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            yield (f'`{key}` should have {len(arguments)} entries, but got {_show(value)}; '
                   f'correct it')
            return
        for number, (item, one) in enumerate(zip(value, arguments, strict=True)):
            yield from _compare(item, one, f'{key}.{number}')
    else:
        for number, item in enumerate(value):
            yield from _compare(item, arguments[0], f'{key}.{number}')


def _problem(key: str, value: Any, kinds: Sequence[type], literals: Sequence[Any] = ()) -> str:
    names = ' or '.join([*map(repr, literals),
                         *(one.__name__.replace('NoneType', 'None') for one in kinds)])
    hint = 'correct it'
    if dict in kinds and not isinstance(value, dict):
        hint = f"on a command line: '{key}=dict(name=value)'"
    elif str in kinds:
        hint = f"on a command line, quote a string: '{key}=\"...\"'"
    return f'`{key}` should be {names}, but got {_show(value)}; {hint}'


def _show(value: Any) -> str:
    shown = ' '.join(repr(value).split())
    return shown if len(shown) <= 200 else shown[:200] + '...'


def _parts(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a hint."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint, )


def _plain_types(hint: Any) -> tuple[type, ...] | None:
    """The plain types that a hint allows; None if it also allows others."""
    parts = _parts(hint)
    if len(parts) > 1:
        kinds = [_plain_types(part) for part in parts if part is not Tensor]
        plain = tuple(dict.fromkeys(kind for part in kinds for kind in part or ()))
        # A class beside dict is the object built from the dict; a config never holds it.
        return plain if None not in kinds or dict in plain else None
    if typing.get_origin(hint) is typing.Literal:
        return tuple(dict.fromkeys(map(type, typing.get_args(hint))))
    hint = _CONTAINERS.get(typing.get_origin(hint) or hint, hint)
    if inspect.isclass(hint) and issubclass(hint, os.PathLike):
        hint = str
    return (hint, ) if hint in _PLAIN else None


def _holds(hint: Any, value: Any) -> bool:
    """Whether a value is a container of the hinted kind."""
    kind = _CONTAINERS.get(typing.get_origin(hint))
    return isinstance(value, _LISTS if kind in _LISTS else dict) if kind else False


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, _LISTS):
        return list in kinds or tuple in kinds
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, (int, float)):
        whole = value == value // 1
        return (float in kinds or type(value) in kinds or int in kinds and whole
                or bool in kinds and value in (0, 1))
    return isinstance(value, kinds) or not isinstance(value, (str, dict, type(None)))
