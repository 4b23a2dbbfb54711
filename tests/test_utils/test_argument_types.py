# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from mmdpad.utils.argument_types import find_wrong_types


class Inner:
    pass


class Base:

    def __init__(self, inherited: str = '') -> None:
        pass


class Part(Base):

    def __init__(self, name: str, options: dict[str, int] | None = None, size: int = 1,
                 rate: float = 1.0, flag: bool = False, pair: tuple[int, int] = (1, 2),
                 inner: Inner | dict | None = None, path: Path | None = None,
                 what: Callable | str = '', cap: float | Literal['auto'] | None = None,
                 loose=None, **kwargs) -> None:
        super().__init__(**kwargs)


@pytest.mark.parametrize('name, value', [
    ('name', 'a'), ('name', Path('a')), ('options', None), ('options', {}), ('size', 2),
    ('size', 2.0), ('rate', 1), ('rate', float('inf')), ('flag', True), ('flag', 0), ('flag', 1.0),
    ('pair', [1, 2]), ('inner', dict(type='A')), ('path', 'a'),
    ('what', []), ('cap', 'auto'), ('cap', 2), ('cap', None), ('loose', 1), ('unknown', 1)])
def test_what_fits(name, value):
    assert not list(find_wrong_types(Part, {name: value}, 'a'))


@pytest.mark.parametrize('name, value, wanted, hint', [
    ('name', ['/data/a', 'b'], 'str', "'a.0.name=\"...\"'"),
    ('name', 7, 'str', "'a.0.name=\"...\"'"),
    ('name', None, 'str', ''), ('path', [1], 'str or None', ''),
    ('inherited', [1], 'str', ''),
    ('options', ['x:1'], 'dict or None', "'a.0.options=dict(name=value)'"),
    ('options', '{x', 'dict or None', ''), ('size', 'x', 'int', ''), ('size', 2.5, 'int', ''),
    ('size', None, 'int', ''), ('size', True, 'int', ''), ('rate', 'x', 'float', ''),
    ('rate', False, 'float', ''), ('cap', True, "'auto' or float or None", ''),
    ('flag', 2, 'bool', ''), ('flag', 'yes', 'bool', ''),
    ('pair', '1,2', 'tuple', ''), ('inner', 'x', 'dict or None', ''),
    ('inner', [1], 'dict or None', ''), ('cap', 'two', "'auto' or float or None", '')])
def test_what_does_not(name, value, wanted, hint):
    (problem, ) = find_wrong_types(Part, {name: value, 'loose': []}, 'a.0')
    assert problem.startswith(f'`a.0.{name}` should be {wanted}, but got {value!r}; ')
    assert hint in problem
