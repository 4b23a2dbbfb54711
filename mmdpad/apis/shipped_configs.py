# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Configs by name, in a checkout as in an installed package."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

import mmdpad

_PACKAGE = Path(mmdpad.__file__).parent


def config_folder() -> Path | None:
    """Where the configs that came with mmdpad are: in the package, or beside it in a checkout."""
    places = (_PACKAGE / '.mim' / 'configs', _PACKAGE.parent / 'configs')
    return next((place for place in places if (place / 'dpad').is_dir()), None)


def find_config(name: str | os.PathLike) -> str:
    """The path of a config file.

    Args:
        name: A path, or the name of a config that came with mmdpad: 'tiny_shapes',
            'dpad/tiny_shapes.py', 'mmdpad::dpad/tiny_shapes.py'.

    Raises:
        FileNotFoundError: There is no such file or name; similar names are told.
    """
    name = os.fspath(name)
    if os.path.isfile(name):
        return name
    folder = config_folder()
    wanted = name.removeprefix('mmdpad::').removesuffix('.py')
    shipped = {} if folder is None else {
        path.relative_to(folder).with_suffix('').as_posix(): path
        for path in sorted(folder.rglob('*.py')) if '_base_' not in path.parts}
    for key in (wanted, f'dpad/{wanted}'):
        if key in shipped:
            return str(shipped[key])
    similar = get_close_matches(wanted, [*shipped, *(key.removeprefix('dpad/') for key in shipped)])
    raise FileNotFoundError(
        f'Config {name!r} does not exist; give the path of a config file, or the name of one that '
        f'came with mmdpad such as {", ".join(map(repr, similar)) or repr("dpad/tiny_shapes")}')
