# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Configs with one value, or one name, that is wrong."""
import copy
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config


@dataclass(frozen=True)
class Fault:
    """What is changed at a place of a config.

    Attributes:
        path: Keys and indices from the outside in.
        sort: 'type', 'none', 'range', 'choice': another value is there; 'key': another name.
        given: That value or name.
    """

    path: tuple
    sort: str
    given: Any

    @property
    def key(self) -> str:
        return '.'.join(map(str, self.path))

    def __str__(self) -> str:
        return f'{self.key} ({self.sort}) {self.given!r}'

    def clashes(self, other: 'Fault') -> bool:
        """Whether one of the two is within the other."""
        size = min(len(self.path), len(other.path))
        return self.path[:size] == other.path[:size]


def others(value):
    """Values of other types."""
    if isinstance(value, dict):
        return ['x', ['a'], 3.5]
    if isinstance(value, (list, tuple)):
        return ['x', {'zzz': 1}, 3.5]
    if isinstance(value, str):
        return [3.5, ['a'], {'zzz': 1}]
    if type(value) in (int, float):
        return ['x', ['a'], {'zzz': 1}, value != 1]
    return [] if value is None else ['x', ['a'], {'zzz': 1}]


def misspelled(name: str) -> str:
    """A name without the letter in its middle."""
    middle = len(name) // 2
    return name[:middle] + name[middle + 1:]


def faults(value: Any, path: tuple = ()):
    """All faults of a config: a wrong type, no value, a misspelled name, a number out of range."""
    items = value.items() if isinstance(value, dict) else (
        enumerate(value) if isinstance(value, (list, tuple)) else ())
    for key, item in items:
        here = (*path, key)
        if isinstance(key, str) and len(key) > 1:
            yield Fault(here, 'key', misspelled(key))
        for other in others(item)[:1]:
            yield Fault(here, 'type', other)
        if item is not None:
            yield Fault(here, 'none', None)
        if isinstance(item, str) and len(item) > 1:
            yield Fault(here, 'choice', misspelled(item))
        if type(item) is int:
            yield Fault(here, 'type', 1.5)
        elif type(item) is float:
            yield Fault(here, 'type', float('nan'))
        if type(item) in (int, float):
            numbers = [type(item)(number) for number in (-1, 0)] + [1.5] * (type(item) is float)
            yield from (Fault(here, 'range', number) for number in numbers if number != item)
        yield from faults(item, here)


def with_faults(config: dict, *wrong: Fault) -> Config:
    """The config with some faults, none of which is within another one."""
    config = copy.deepcopy(config)
    for fault in wrong:
        holder = config
        for key in fault.path[:-1]:
            if isinstance(holder[key], tuple):
                holder[key] = list(holder[key])
            holder = holder[key]
        last = fault.path[-1]
        if fault.sort == 'key':
            entries = [(fault.given if key == last else key, v) for key, v in holder.items()]
            holder.clear()
            holder.update(entries)
        else:
            holder[last] = fault.given
    return Config(config)
