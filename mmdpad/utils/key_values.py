# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""KEY=VALUE on a command line: how a value is parsed, and how it changes a config."""

from __future__ import annotations

import argparse
import ast
import copy
import keyword
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.config import BASE_KEY, DELETE_KEY, RESERVED_KEYS

from . import renamed

MAX_DEPTH = 50  # nested brackets
_BRACKETS = {'[': ']', '(': ')', '{': '}'}
_CALL = re.compile(r'(dict|list|tuple|set)\(')
_QUOTED = re.compile(r'''(['"])((?:(?!\1)[^\\]|\\.)*)\1''', re.S)
# Python's escapes; any other backslash is kept, as in Python.
_ESCAPE = re.compile(r'''\\(?:[\n\\'"abfnrtv]|[0-7]{1,3}|x[\da-fA-F]{2}|u[\da-fA-F]{4}|'''
                     r'U[\da-fA-F]{8}|N\{[^}]+\})')
# What mmengine replaces whenever it reads a config file, including the one that a run writes.
_REPLACED = re.compile(r'''\{\{\s*(?:file(?:Dirname|Basename|BasenameNoExtension|Extname)|'''
                       rf'''{BASE_KEY}\.[\w.]+)\s*\}}\}}|\{{\{{['"]?\s*\$\w+\s*:''')


class KeyValueError(ValueError):
    """A KEY=VALUE that cannot be parsed or does not fit the config."""


class KeyValues(argparse.Action):
    """Arguments KEY=VALUE, as a dict of :func:`parse_key_value`; an invalid one is a usage error.
    Repeating the option adds to the earlier values."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace,
                 values: Any, option_string: str | None = None) -> None:
        read = dict(getattr(namespace, self.dest) or {})
        for argument in values:
            try:
                key, value = parse_key_value(argument)
            except KeyValueError as error:
                raise argparse.ArgumentError(self, str(error)) from None
            # The last one counts, at its position: a key within it may come before or after it.
            read.pop(key, None)
            read[key] = value
        setattr(namespace, self.dest, read)


def parse_key_value(argument: str) -> tuple[str, Any]:
    """The key and the value (:func:`parse_value`) of an argument KEY=VALUE.

    Raises:
        KeyValueError: It cannot be parsed; the message shows it.
    """
    shown = repr(argument if len(argument) <= 200 else argument[:200] + '...')
    key, equals, text = argument.partition('=')
    if not equals or not all(key.split('.')) or re.search(r'\s', key):
        raise KeyValueError(f'should be KEY=VALUE, where KEY is names and numbers joined by dots, '
                            f'but got {shown}; correct it (if VALUE has blanks, quote the complete '
                            f"argument: 'KEY=VALUE')")
    try:
        return key, parse_value(text)
    except KeyValueError as error:
        raise KeyValueError(f'{shown} cannot be read: {error}; correct it, or quote a text '
                            f"separately: '{key[:100]}=\"TEXT\"'") from None


def parse_value(text: str) -> Any:
    """Parse a value; nothing in it is ever evaluated.

    The first match counts: a number, ``True``, ``False`` (in any case) or ``None``; a quoted text,
    as in Python; ``[...]``, ``(...)``, ``{key: ...}`` and ``dict(key=...)`` of values, in which
    texts without a comma need no quotes; comma-separated values, a list, unless one of them is an
    unquoted text with blanks; anything else is a text, unchanged.

    Raises:
        KeyValueError: A bracket is not one of these.

    Example:
        >>> parse_value('1,a'), parse_value('[(1,a),dict(b=None)]'), parse_value('Find a, then b')
        ([1, 'a'], [(1, 'a'), {'b': None}], 'Find a, then b')
    """
    value = _read(text)
    if value is not _PLAIN:
        return value
    if ',' not in text:
        return text
    has_blanks = bool(re.search(r'\s', text))
    try:
        pieces = _split(text, ',')
    except KeyValueError:
        if has_blanks:
            return text
        raise
    if not pieces[-1]:  # `1,` is a list with one entry
        pieces.pop()
    values = [_read(piece) for piece in pieces]
    if not all(pieces) or len(text) == len(pieces[0]) or any(
            value is _PLAIN and re.search(r'\s', piece)
            for piece, value in zip(pieces, values, strict=True)):
        return text
    return [piece if value is _PLAIN else value
            for piece, value in zip(pieces, values, strict=True)]


_PLAIN: Any = object()  # returned by _read for an unquoted text


def _read(text: str) -> Any:
    """A value without top-level commas; ``_PLAIN`` for an unquoted text."""
    text = text.strip()
    for number in (int, float, lambda digits: int(digits, 0)):  # the last reads 0xff
        try:
            return number(text)
        except ValueError:
            pass
    if text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    if text == 'None':
        return None
    if quoted := _QUOTED.fullmatch(text):
        return _ESCAPE.sub(_unescape, quoted[2])
    call = _CALL.match(text)
    start = call.end() - 1 if call else 0
    if text[start:start + 1] not in _BRACKETS or not text:
        return _PLAIN
    end = _closing(text, start)
    if end is not None and end < len(text) - 1:
        return _PLAIN  # a text that begins with a bracket
    inside = text[start + 1:-1]
    if text[0] == '{' and end and inside.strip() and not re.search('[:,]', inside):
        return _PLAIN  # a placeholder in a text: {question}
    if end is None:
        raise KeyValueError('its brackets do not match')
    if call and call[1] != 'dict':
        raise KeyValueError(f'`{call[0]}...)` is not known, but [...], (...), {{key: ...}} and '
                            f'dict(key=...) are')
    if call or text[0] == '{':
        return _read_pairs(_items(inside), '=' if call else ':')
    values = [_item(piece) for piece in _items(inside)]
    return tuple(values) if text[0] == '(' else values


def _read_pairs(items: list[str], separator: str) -> dict:
    pairs: dict = {}
    for item in items:
        name, *rest = _split(item, separator, 1)
        if not rest or not rest[0].strip():
            raise KeyValueError(f'{item.strip()[:100]!r} in it should be '
                                f'{"key=value" if separator == "=" else "key: value"}')
        key = name.strip() if separator == '=' else _item(name)
        if separator == '=' and not key.isidentifier() or not isinstance(
                key, (str, int, float, type(None))) or key in pairs:
            raise KeyValueError(f'{name.strip()[:100]!r} in it should be a name that occurs only '
                                f'once')
        pairs[key] = _item(rest[0])
    return pairs


def _item(text: str) -> Any:
    value = _read(text)
    return text.strip() if value is _PLAIN else value


def _items(inside: str) -> list[str]:
    """The parts between the commas inside a bracket."""
    items = _split(inside, ',')
    if not items[-1].strip():
        items.pop()
    if not all(item.strip() for item in items):
        raise KeyValueError('there is nothing between two commas in it')
    return items


def _unescape(match: re.Match) -> str:
    try:
        return ast.literal_eval(f'"{match[0]}"')
    except SyntaxError:
        raise KeyValueError(f'{match[0]!r} in it is not a character') from None


def _walk(text: str, start: int = 0) -> Iterator[tuple[int, str]]:
    """Index and character of everything outside quotes, which open where a value begins."""
    place, opens = start, True
    while place < len(text):
        quoted = _QUOTED.match(text, place) if opens else None
        if quoted:
            place, opens = quoted.end(), False
            continue
        char = text[place]
        yield place, char
        opens = char in '[({,:=' or opens and char.isspace()
        place += 1


def _closing(text: str, start: int) -> int | None:
    """Index at which the bracket at ``start`` is closed; None if it is not."""
    awaited: list[str] = []
    for place, char in _walk(text, start):
        if char in _BRACKETS:
            awaited.append(_BRACKETS[char])
            if len(awaited) > MAX_DEPTH:
                raise KeyValueError(f'brackets are nested more than {MAX_DEPTH} deep')
        elif char in _BRACKETS.values():
            if awaited.pop() != char:
                return None
            if not awaited:
                return place
    return None


def _split(text: str, separator: str, most: int = -1) -> list[str]:
    """The pieces of a text between separators outside quotes and brackets."""
    awaited: list[str] = []
    ends: list[int] = []
    for place, char in _walk(text):
        if char in _BRACKETS:
            awaited.append(_BRACKETS[char])
        elif char in _BRACKETS.values():
            if not awaited or awaited.pop() != char:
                raise KeyValueError('its brackets do not match')
        elif char == separator and not awaited and len(ends) != most:
            ends.append(place)
    if awaited:
        raise KeyValueError('its brackets do not match')
    return [text[start:end] for start, end in zip([0, *(end + 1 for end in ends)],
                                                  [*ends, len(text)], strict=True)]


def override(config: Config, options: Mapping[str, Any]) -> None:
    """Change entries of a config one by one, as mmengine's ``merge_from_dict`` does, and also where
    that fails: an entry of a list may be any value, and None may become a dict.

    Args:
        config: The config to change; parts shared with other entries are copied.
        options: Dotted keys to values. An entry of a list is named by its number, its ``type``
            (without anything before the last dot) or its ``name``. A dict is merged into an
            existing one unless it has ``_delete_=True``; anything else replaces the old value.

    Raises:
        KeyValueError: A key that the config has no place for.
    """
    for key, value in options.items():
        holder: Any = config
        *path, last = key.split('.')
        name = (path or [last])[0]
        if not name.isidentifier() or keyword.iskeyword(name) or name in (BASE_KEY, *RESERVED_KEYS):
            raise KeyValueError(f'`{name}` cannot be the name of an entry: the config is written '
                                f'to the work dir as `name = value`')
        if replaced := _REPLACED.search(str(value)):
            raise KeyValueError(f'`{key}` holds {replaced[0]!r}, which mmengine would replace when '
                                f'it reads the config in the work dir; write other braces')
        for number, name in enumerate(path):
            place = _find(holder, name, '.'.join(path[:number]))
            inner = holder[place] if isinstance(place, int) else holder.get(place)
            holder[place] = ConfigDict() if inner is None else copy.copy(inner)
            holder = holder[place]
        place = _find(holder, last, '.'.join(path))
        if isinstance(value, dict):
            old = holder[place] if isinstance(place, int) else holder.get(place)
            value = _merge(value, old, key)
        holder[place] = _as_config(value)


def _find(holder: Any, name: str, where: str) -> str | int:
    """The key or index of an entry of a dict or a list."""
    if isinstance(holder, (Config, dict)):
        return name
    if not isinstance(holder, list):
        raise KeyValueError(f'`{where}` is {_shorten(holder)}, which has no entry `{name}` to set')
    places = [number for number, item in enumerate(holder)
              if name == str(number) or isinstance(item, dict) and name in (
                  item.get('name'), _type_name(item.get('type')))]
    if len(places) != 1:
        hint = renamed.advice('type', name)
        raise KeyValueError(
            f'`{where}` is a list of {len(holder)}, whose entries have their type or `name` as '
            f'names and are numbered from 0, but got `{name}`'
            + (f', which {places} are called; take one of these numbers' if places else
               f'; {hint}' if hint else ''))
    return places[0]


def _type_name(kind: Any) -> str:
    """The name of a class, by which (or by its import path) a config refers to it."""
    return (kind.__name__ if isinstance(kind, type) else str(kind)).rpartition('.')[2]


def _merge(value: dict, old: Any, key: str) -> dict:
    """Merge a dict into the existing value."""
    value = dict(value)
    if value.pop(DELETE_KEY, False) or old is None:
        return value
    if not isinstance(old, dict):
        raise KeyValueError(f'`{key}` is {_shorten(old)}, which a dict does not change; to replace '
                            f'it, put `{DELETE_KEY}=True` into the dict')
    try:
        return Config._merge_a_into_b(value, old)
    except TypeError as error:
        raise KeyValueError(f'`{key}`: {_shorten(error.args[0], str)}') from None


def _as_config(value: Any) -> Any:
    """The same value, with dicts that also have their entries as attributes."""
    if isinstance(value, dict):
        return ConfigDict(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map(_as_config, value))
    return value


def _shorten(value: Any, shown: Callable[[Any], str] = repr) -> str:
    text = ' '.join(shown(value).split())
    return text if len(text) <= 200 else text[:200] + '...'
