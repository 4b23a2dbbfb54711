# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks that the entries of a config have the types and parts that a run reads."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.runner import Runner

from mmdpad.models.segmentors.settings import missing_type
from mmdpad.utils import LOADERS
from mmdpad.utils.argument_types import find_wrong_types

from .refusals import NOTHING_TO_DELETE

# Keys whose values are a dict with a `type`, a list of such dicts, or a dict of them.
_ONE = {'dataset', 'sampler', 'batch_sampler', 'collate_fn', 'optimizer'}
_LISTS = {'pipeline', 'custom_hooks', 'vis_backends'}
_ONE_OR_LISTS = {'param_scheduler', 'val_evaluator', 'test_evaluator', 'datasets',
                  'discriminator'}
_NAMED = {'rewards', 'default_hooks'}
# Top-level keys; mmengine fills in a missing `type` for those in the second set.
_AT_TOP = {'model', 'strategy', 'model_wrapper_cfg', 'log_processor', 'visualizer'}
_TYPE_OPTIONAL = {'train_cfg', 'val_cfg', 'test_cfg', 'optim_wrapper', 'log_processor',
                  'visualizer', 'model_wrapper_cfg'}
_READ = frozenset((*_AT_TOP, *_LISTS, *_ONE_OR_LISTS, *_NAMED, *_TYPE_OPTIONAL, *LOADERS))
_LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def check_entries(part: Mapping[str, Any]) -> Iterator[str]:
    """Yield the top-level entries of types that mmengine's runner does not accept."""
    # `log_level` may also be a number; `check_place` checks the entries of `default_hooks`.
    wrong = list(find_wrong_types(Runner, {
        key: {} if value and key == 'default_hooks' and isinstance(value, Mapping) else value
        for key, value in part.items() if key != 'log_level'}, ''))
    level = part.get('log_level', 'INFO')
    if not isinstance(level, int) and not (
            isinstance(level, str) and isinstance(logging.getLevelName(level), int)):
        wrong.append(f"`log_level` should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR', but got "
                     f'{level!r}; correct it')
    if part.get('launcher', 'none') not in _LAUNCHERS:
        wrong.append(f'`launcher` should be one of {_LAUNCHERS}, but got {part["launcher"]!r}; '
                     'correct it')
    yield from wrong or _check_parts(part)


def _check_parts(part: Mapping[str, Any]) -> Iterator[str]:
    """Yield the incomplete loops: mmengine requires all entries of a loop or none."""
    if part.get('model') is None:
        yield '`model` should be the config of a model, but is missing; set it'
    for names, needed in ((('train_dataloader', 'train_cfg', 'optim_wrapper'), True),
                          (('val_dataloader', 'val_cfg', 'val_evaluator'), False),
                          (('test_dataloader', 'test_cfg', 'test_evaluator'), False)):
        there = [name for name in names if part.get(name) is not None]
        if any(name in part for name in names) and len(there) < 3 and (there or needed):
            missing = ' and '.join(f'`{name}`' for name in names if name not in there)
            hint = '' if needed else ', or leave all three out'
            yield (f'{missing} should be set along with {there}, but got None; set it{hint}'
                   if there else f'{missing} should be set for training, but got None; set them')


def check_shape(value: Any, path: str) -> Iterator[str]:
    """Yield the values that should be a dict with a ``type`` but are not."""
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from check_shape(item, f'{path}.{number}')
    elif isinstance(value, Mapping):
        for key, item in value.items():
            where = f'{path}.{key}' if path else str(key)
            yield from _check_place(key, item, where, path)
            if path or key in _READ:
                yield from check_shape(item, where)


def _check_place(key: Any, item: Any, where: str, path: str) -> Iterator[str]:
    if item is None or not path and key not in _READ or (
            path.startswith('model') and key != 'discriminator'):
        return  # a variable of the config's author, or an argument of another package's model
    if key in _ONE or not path and key in _AT_TOP | _TYPE_OPTIONAL:
        yield from check_place(item, where, not path and key in _TYPE_OPTIONAL)
    elif key in _ONE_OR_LISTS and isinstance(item, Mapping):
        if 'metrics' not in item:  # arguments of an Evaluator
            yield from check_place(item, where)
    elif key in _LISTS or key in _ONE_OR_LISTS:
        if not isinstance(item, (list, tuple)):
            yield f'`{where}` should be a list of dicts with a `type`, but got {item!r}; correct it'
            return
        for number, entry in enumerate(item):
            yield from check_place(entry, f'{where}.{number}')
    elif key in _NAMED and isinstance(item, Mapping):
        for name, entry in item.items():
            if not (entry is None and key == 'default_hooks'):
                yield from check_place(entry, f'{where}.{name}')


def check_place(item: Any, where: str, type_optional: bool = False,
                example: str = 'NAME') -> Iterator[str]:
    """Yield the problems with a value that should be a dict with a ``type``, or an object built
    from one. ``example`` is a ``type`` to add."""
    if isinstance(item, Mapping):
        kind = item.get('type')
        if 'type' not in item and not type_optional:
            yield missing_type(where, example)
        elif 'type' in item and not (isinstance(kind, str) or callable(kind)):
            yield (f'`{where}.type` should be the name of a class, but got {kind!r}; correct it')
    elif where.endswith('._delete_'):
        yield f'`{where}`: {NOTHING_TO_DELETE}'
    elif item is None or isinstance(item, (str, int, float, list, tuple)):
        yield (f'`{where}` should be a dict with a `type`, but got {item!r}; on a command line: '
               f"'{where}=dict(type=NAME)'")
