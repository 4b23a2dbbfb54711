# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks for entries of a config that are valid but would have no effect."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.optim import LinearParamScheduler
from mmengine.runner import IterBasedTrainLoop

from mmdpad.registry import HOOKS, LOOPS, PARAM_SCHEDULERS, is_kind, type_name
from mmdpad.utils import renamed
from mmdpad.utils.argument_types import read_defaults

from .config_nodes import Node
from .signatures import known_arguments

# mmengine's default hooks, which None switches off.
OWN_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
# The other default hooks of configs/_base_/default_runtime.py and of mmdet's.
SHIPPED_HOOKS = ('resume', 'safe_checkpoint', 'rollout_log', 'provenance', 'response_cache',
                 'answer_pictures', 'curves', 'alarms', 'threads', 'visualization')
_NAMES_OF_HOOKS = {name for pair in renamed.RENAMED['type'].items() for name in pair}


def find_old_names(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names from before 0.1.0 that a run would ignore. Others, such as those of classes,
    are unknown and reported as such."""
    imports = config.get('custom_imports')
    names = imports.get('imports') if isinstance(imports, Mapping) else None
    for name in [names] if isinstance(names, str) else names or ():
        if advice := renamed.advice('module', name):
            yield f'`custom_imports.imports` has {name!r}; {advice}'
    hooks = config.get('default_hooks')
    for name, hook in hooks.items() if isinstance(hooks, Mapping) else ():
        ours = not (isinstance(hook, Mapping) and 'type' in hook) or (
            type_name(hook).rpartition('.')[2] in _NAMES_OF_HOOKS)
        if ours and (advice := renamed.advice('default hook', name)):
            yield f'`default_hooks.{name}`: {advice}'
    for path, name in _texts(config.get('log_processor'), 'log_processor'):
        if advice := renamed.advice('log', name):
            yield f'`{path}` is {name!r}; {advice}'


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Path and value of every string."""
    if isinstance(value, str):
        yield path, value
    items = value.items() if isinstance(value, Mapping) else (
        enumerate(value) if isinstance(value, (list, tuple)) else ())
    for key, item in items:
        yield from _texts(item, f'{path}.{key}')


def find_unknown_switches(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the entries of ``default_hooks`` that are None although no hook has their name.

    The text of a config includes the files that it inherits, so the names there are known. Where
    it does not (a config made in Python, or one in the pure Python style that inherits another),
    only names that resemble a known one are reported. The names of the shipped configs are always
    known, since a config that was written to a file after one became None has no other trace of it.
    """
    hooks = config.get('default_hooks')
    if not isinstance(hooks, Mapping):
        return
    text = config.text if isinstance(config, Config) else ''
    complete = text and 'read_base' not in text
    known = {*OWN_HOOKS, *SHIPPED_HOOKS}
    known |= {name for name, hook in hooks.items() if hook is not None}
    for name, hook in hooks.items():
        if hook is not None or name in known or renamed.advice('default hook', name):
            continue
        set_elsewhere = re.search(
            rf'\b{re.escape(str(name))}[\'"]?\s*[=:]\s*(?!None\b|null\b|~)\S', text)
        close = difflib.get_close_matches(str(name), sorted(known), n=1)
        if not set_elsewhere and (close or complete):
            yield (f'`default_hooks.{name}` is None, but there is no hook of that name to switch '
                   f'off; ' + (f'did you mean `{close[0]}`?' if close else 'correct or remove it'))


def find_epochs(config: Mapping[str, Any], nodes: list[Node]) -> Iterator[str]:
    """Yield the settings that count epochs where a loop over iterations has only one.

    Args:
        config: The complete config.
        nodes: The nodes that a training reads.
    """
    loop = config.get('train_cfg') or {}
    if 'type' in loop:
        iterations = is_kind(loop, IterBasedTrainLoop, LOOPS)
    else:
        iterations = not loop.get('by_epoch', True)
    if not iterations:
        return
    for node in nodes:
        if node.registry not in (HOOKS, PARAM_SCHEDULERS) or not inspect.isclass(node.kind):
            continue
        defaults = inherited_arguments(node.kind)
        # Schedulers that read a metric are stepped by validations.
        if getattr(node.kind, 'need_val_args', False) or node.entry.get('convert_to_iter_based'):
            continue
        if 'by_epoch' in defaults and node.entry.get('by_epoch', defaults['by_epoch']) is True:
            given = 'is True' if 'by_epoch' in node.entry else 'is missing and True by default'
            yield (f'`{node.path}.by_epoch` should be False for a loop over iterations, in which '
                   f'no epoch ends before the run does, but {given}; set it to False, and count '
                   f'in iterations')
        for name in defaults.keys() & node.entry.keys():
            value = node.entry[name]
            if name.endswith(('_epoch', '_epochs')) and type(value) is int and value > 0:
                yield (f'`{node.path}.{name}` should not be set for a loop over iterations, which '
                       f'is in its first epoch until it ends, but got {value}; count in '
                       f'iterations, or remove it')


def find_stuck_schedules(nodes: list[Node]) -> Iterator[str]:
    """Yield the linear schedules that mmengine does not follow to their end: one of a single step
    keeps ``start_factor`` for the whole training, and one from 0 divides by 0 at its second step.

    Args:
        nodes: The nodes that a training reads.
    """
    for node in nodes:
        if not node.is_kind(LinearParamScheduler):
            continue
        given = {**read_defaults(node.kind), **node.entry}
        steps, start = given['end'] - given['begin'], given['start_factor']
        if steps == 1 and start != 1 and not given.get('convert_to_iter_based'):
            yield (f'`{node.path}` should last at least 2 steps, since mmengine keeps '
                   f'`start_factor` ({start:g}) for the whole training after a single one, but '
                   f'got 1 (`begin` {given["begin"]}, `end` {given["end"]}); raise `end`, or '
                   f'remove the schedule')
        elif start == 0:
            yield (f'`{node.path}.start_factor` should be greater than 0, since mmengine divides '
                   f'by it, but got {start}; use a small value such as 1e-6')


def find_unreached_norms(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield ``norm_decay_mult`` where the policy is one of ours: mmengine does not count RMSNorm,
    the norm of the language models, among norms."""
    given = (config.get('optim_wrapper') or {}).get('paramwise_cfg') or {}
    if given.get('norm_decay_mult', 1) not in (1, None) and 'flat_decay_mult' not in given:
        yield (f'`optim_wrapper.paramwise_cfg.norm_decay_mult` should be `flat_decay_mult` (of '
               f'all weights of one dimension) for a policy whose norms are RMSNorm, which '
               f'mmengine does not count among norms, but got {given["norm_decay_mult"]} alone; '
               f'set `flat_decay_mult`')


def inherited_arguments(kind: type) -> dict[str, Any]:
    """The arguments of a class that a class of mmengine, mmdet or mmdpad in its bases has, too, and
    that therefore mean the same, with their defaults; :attr:`inspect.Parameter.empty` for one whose
    default another package may have changed."""
    taken, defaults = known_arguments(kind), read_defaults(kind)
    return {name: defaults[name] if _is_known(kind) else inspect.Parameter.empty
            for base in kind.__mro__ if _is_known(base) for name in read_defaults(base)
            if taken is None or name in taken}


def _is_known(kind: type) -> bool:
    return kind.__module__.startswith(('mmengine.', 'mmdet.', 'mmdpad.'))
