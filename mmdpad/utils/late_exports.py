# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Packages whose names are imported on first use (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def late_exports(package: str, places: Mapping[str, Iterable[str]]
                 ) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package.

    Its ``__init__.py`` repeats the imports below ``if TYPE_CHECKING:`` and lists the names in
    ``__all__``, for tools that read it.

    Args:
        package: Its ``__name__``.
        places: Submodule -> the names that the package exports from it. A submodule without names
            is exported itself.

    Raises:
        ValueError: A submodule exports its own name; importing the submodule would replace it.
    """
    for module, names_in in places.items():
        if module in names_in:
            raise ValueError(f'{package}.{module} should not have the name of what it exports, '
                             'which a later import of it would replace; rename the file')
    place_of = {name: module for module, names in places.items() for name in names or (module,)}

    def get(name: str) -> Any:
        if name not in place_of:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        module = importlib.import_module(f'{package}.{place_of[name]}')
        value = module if name == place_of[name] else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *place_of})

    return get, names
