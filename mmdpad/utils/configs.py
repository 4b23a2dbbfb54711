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

from . import renamed

# Entries of a data loader whose arguments mmengine passes on to a function unchanged.
_FUNCTIONS = ('collate_fn', 'worker_init_fn')


def find_config(name: str | os.PathLike) -> str:
    """Find the config file for ``name``.

    Args:
        name: A path; or ``PACKAGE::NAME`` for a config shipped with an OpenMMLab-style package
            (mmdpad, mmdet); or just the name of one of ours: 'tiny_shapes', 'mmdet/NAME.py'.

    Raises:
        FileNotFoundError: There is no such config; the message suggests similar names.
    """
    name = os.fspath(name)
    if os.path.isfile(name):
        return name
    package, _, inner = name.rpartition('::')
    place = mim_folder(package or 'mmdpad')
    if place is None:
        raise FileNotFoundError(f'config {name!r}: package {package!r} is not installed; '
                                f'install it')
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
        f'config {name!r} does not exist; '
        + (f'did you mean {" or ".join(close)}?' if close else
           f'{package} has {len(names)} configs, in {folder}' if package else
           'those shipped with mmdpad are named like mmdpad::dpad/tiny_shapes.py'))


def mim_folder(package: str) -> Path | None:
    """The folder with the configs and tools of an OpenMMLab-style package; None if it is not
    installed. The package is not imported."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / '.mim'


class UnreadableConfig(ValueError):
    """A plain-data config (JSON, YAML) is damaged or asks for code to be run; a pure Python config
    inherits or imports something that does not exist, or does so in a way that MMEngine does not
    allow; or a config needs something by a name that it had before 0.1.0."""


def open_config(path: str) -> Config:
    """``Config.fromfile``, with errors that name the file, and consistent for every style.

    A ``.py`` config is a program, and so are its bases; the entries of any config name classes and
    functions that are called once something is built from it. ``custom_imports`` also works in
    MMEngine's pure Python style. Entries inherited by ``PACKAGE::NAME`` keep the ``_scope_`` that
    MMEngine adds only if it differs from the surrounding scope, and not in parts that MMEngine
    builds without a registry.

    Raises:
        UnreadableConfig: See that class.
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
    except (ImportError, AttributeError) as error:
        hint = (renamed.advice_in(str(error)) if isinstance(error, ImportError) else
                renamed.advice('variable', error.name))
        if hint is None:
            raise
        line = str(error).partition(', the current sys.path')[0]
        raise UnreadableConfig(f'config {path!r} cannot be read: {line}; {hint}') from error
    if hasattr(config, '_imported_names'):  # the pure Python style
        import_modules_from_strings(**(config.get('custom_imports') or {'imports': None}))
    drop_scopes(config._cfg_dict, config.get('default_scope'))
    return config


def import_names(value: Any) -> None:
    """Import the names that a pure Python config uses; MMEngine imports them lazily.

    Args:
        value: A part of a config.

    Raises:
        UnreadableConfig: A module, or a name in it, does not exist.
    """
    if isinstance(value, (LazyObject, LazyAttr)):
        try:
            value.build()
        except ImportError as error:
            hint = renamed.advice_in(str(error)) or 'correct the import, or install its package'
            raise UnreadableConfig(f'{error}; {hint}') from error
    elif isinstance(value, (dict, list, tuple)):
        for item in dict.values(value) if isinstance(value, dict) else value:
            import_names(item)


def drop_scopes(value: Any, scope: str | None) -> None:
    """Remove every ``_scope_`` that has no effect, in place.

    Args:
        value: A part of a config.
        scope: The surrounding scope.
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
