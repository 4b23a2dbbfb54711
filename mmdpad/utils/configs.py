# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Configs by path and by name."""

from __future__ import annotations

import difflib
import importlib.util
import os
from pathlib import Path

import yaml
from mmengine.config import Config


def find_config(name: str | os.PathLike) -> str:
    """The config file that ``name`` means.

    Args:
        name: A path; or ``PACKAGE::NAME`` for one that comes with a package of OpenMMLab's kind
            (mmdpad, mmdet); or just the name of one of ours: 'tiny_shapes', 'mmdet/NAME.py'.

    Raises:
        FileNotFoundError: There is none; the message has names that are close.
    """
    name = os.fspath(name)
    if os.path.isfile(name):
        return name
    package, _, inner = name.rpartition('::')
    spec = importlib.util.find_spec(package or 'mmdpad')
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f'config {name!r}: there is no package {package!r}; install it')
    folder = Path(spec.origin).parent / '.mim' / 'configs'
    wanted = inner.removesuffix('.py') + '.py'
    for path in (folder / wanted, folder / 'dpad' / wanted):
        if path.is_file() and not os.path.isabs(wanted):
            return str(path)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob('*.py')]
    close = difflib.get_close_matches(wanted, names) + [
        f'dpad/{match}' for match in difflib.get_close_matches(
            wanted, [other.removeprefix('dpad/') for other in names if other[:5] == 'dpad/'])]
    close = [f'{package or "mmdpad"}::{match}' for match in dict.fromkeys(close)]
    raise FileNotFoundError(
        f'config {name!r} is not there; '
        + (f'did you mean {" or ".join(close)}?' if close else
           f'{package} has {len(names)} configs, in {folder}' if package else
           'those that come with mmdpad are named as mmdpad::dpad/tiny_shapes.py is'))


class UnreadableConfig(ValueError):
    """A config of plain data (JSON, YAML) that is damaged, or asks for code to be run."""


def open_config(path: str) -> Config:
    """``Config.fromfile``, with errors that name the file.

    A ``.py`` config is a program, and so are its bases; the entries of any config name classes and
    functions to call once something is built of it.

    Raises:
        UnreadableConfig: See there.
    """
    try:
        return Config.fromfile(path)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        if path.endswith('.py'):
            raise
        raise UnreadableConfig(f'config {path!r} cannot be read: {error}; correct it') from error
