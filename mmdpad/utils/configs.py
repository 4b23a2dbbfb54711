# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Configs by path and by name."""

from __future__ import annotations

import difflib
import importlib.util
import os
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.config.utils import ConfigParsingError
from mmengine.utils import import_modules_from_strings

# Entries of a data loader whose arguments mmengine hands on to a function as they are.
_FUNCTIONS = ('collate_fn', 'worker_init_fn')


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
    place = mim_folder(package or 'mmdpad')
    if place is None:
        raise FileNotFoundError(f'config {name!r}: there is no package {package!r}; install it')
    folder = place / 'configs'
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


def mim_folder(package: str) -> Path | None:
    """Where a package of OpenMMLab's kind has its configs and tools; None where it is not
    installed. It is not imported."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / '.mim'


class UnreadableConfig(ValueError):
    """A config of plain data (JSON, YAML) that is damaged, or asks for code to be run; or one of
    the pure Python style that inherits or imports what is not there, or as MMEngine does not allow
    it."""


def open_config(path: str) -> Config:
    """``Config.fromfile``, with errors that name the file, and the same for every style.

    A ``.py`` config is a program, and so are its bases; the entries of any config name classes and
    functions to call once something is built of it. ``custom_imports`` are imported for MMEngine's
    pure Python style, too. What is inherited by ``PACKAGE::NAME`` keeps the ``_scope_`` that
    MMEngine notes there only where that is another one than what is around it has, and not in what
    MMEngine builds without a registry.

    Raises:
        UnreadableConfig: See there.
    """
    try:
        config = Config.fromfile(path)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        if path.endswith('.py'):
            raise
        raise UnreadableConfig(f'config {path!r} cannot be read: {error}; correct it') from error
    except ConfigParsingError as error:
        hint = 'correct it'
        if 'mmdet.configs' in str(error):
            hint += ('; wheels of mmdet have no `mmdet.configs`: install mmdet from a checkout, '
                       "or inherit by `_base_ = 'mmdet::...'`")
        raise UnreadableConfig(f'config {path!r} cannot be read: {error}; {hint}') from error
    if hasattr(config, '_imported_names'):  # of the pure Python style
        import_modules_from_strings(**(config.get('custom_imports') or {'imports': None}))
    drop_scopes(config._cfg_dict, config.get('default_scope'))
    return config


def import_names(value: Any) -> None:
    """Import what a config of the pure Python style imports and uses, which MMEngine puts off.

    Args:
        value: A part of a config.

    Raises:
        UnreadableConfig: A module, or a name in it, is not there.
    """
    if isinstance(value, (LazyObject, LazyAttr)):
        try:
            value.build()
        except ImportError as error:
            raise UnreadableConfig(
                f'{error}; correct the import, or install its package') from error
    elif isinstance(value, (dict, list, tuple)):
        for item in dict.values(value) if isinstance(value, dict) else value:
            import_names(item)


def drop_scopes(value: Any, scope: str | None) -> None:
    """Remove each ``_scope_`` that changes nothing, in place.

    Args:
        value: A part of a config.
        scope: Of what is around it.
    """
    if isinstance(value, dict):
        if value.get('_scope_') in (None, scope):
            value.pop('_scope_', None)
        scope = value.get('_scope_', scope)
        for key, item in dict.items(value):  # `items` of a ConfigDict would import classes
            if key in _FUNCTIONS and isinstance(item, dict):
                item.pop('_scope_', None)
            drop_scopes(item, scope)
    elif isinstance(value, (list, tuple)):
        for item in value:
            drop_scopes(item, scope)
