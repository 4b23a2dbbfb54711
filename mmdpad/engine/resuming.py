# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Lets a resumed run use the settings of its config where they differ from the checkpoint's."""

from __future__ import annotations

import ast
import itertools
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.optim import OptimWrapper, _ParamScheduler

from .build import UnsuitableConfig

# Entries of a scheduler's state that record progress rather than settings.
_PROGRESS = ('last_step', '_global_step', '_last_value', 'base_values', 'verbose')
# Config entries about paths and display, and those that `apply_config` compares by value.
_ASIDE = ('work_dir', 'load_from', 'resume', 'launcher', 'log_level', 'experiment_name',
          'visualizer', 'vis_backends', 'param_scheduler', 'optim_wrapper.optimizer',
          'optim_wrapper.paramwise_cfg', 'optim_wrapper.loss_scale', 'randomness.seed')
# Entries of an optimizer's state with the shape of a weight (None in the plain file of a folder).
_LIKE_WEIGHTS = {'exp_avg', 'momentum_buffer'}
_SHOWN = 20
_START_ANEW = 'start a new run from these weights with `load_from`'


def fit_optimizer(saved: dict[str, Any], wrapper: OptimWrapper, then: str | None = None,
                  now: str | None = None) -> None:
    """Check that a checkpoint's optimizer state fits the config's optimizer.

    The optimizer also holds frozen parameters, those of a decoder and a reference, after the
    parameters of the policy. A config may add or drop them; the saved groups are adapted.

    Args:
        saved: The wrapper's state in the checkpoint; its groups are adapted in place.
        wrapper: The config's optimizer wrapper.
        then, now: The checkpoint's config, if it has one, and the run's, as text.

    Raises:
        UnsuitableConfig: The state belongs to another type of optimizer or to other parameters.
    """
    optimizer, groups = wrapper.optimizer, saved['param_groups']
    before, own = (_optimizer_type(text) for text in (then, now))
    lacks = sorted(_needed(optimizer) - set(groups[0]))
    if lacks or None not in (before, own) and before != own:
        raise UnsuitableConfig(
            f'`optim_wrapper.optimizer` should be of the type whose state the checkpoint holds '
            f'({before or f"one without {lacks}"}), but got {own or type(optimizer).__name__}; '
            f'use that type, or {_START_ANEW}')
    there, here = ([len(group['params']) for group in some]
                   for some in (groups, optimizer.param_groups))
    if not _is_same_policy(saved['state'], there, optimizer):
        then, now = (f'{sum(sizes)} in groups of {_short_list(sizes)}' for sizes in (there, here))
        raise UnsuitableConfig(
            f'The optimizer should have the same parameters as in the checkpoint ({then}), but the '
            f'config has others ({now}); undo the changes to the policy (`lora`, layers) or '
            f'to `optim_wrapper.paramwise_cfg`, or {_START_ANEW}')
    numbers = iter(range(sum(here)))
    saved['param_groups'] = [
        {**(groups[number] if number < len(groups) else group),
         'params': list(itertools.islice(numbers, len(group['params'])))}
        for number, group in enumerate(optimizer.param_groups)]


def apply_config(checkpoint: dict, wrapper: OptimWrapper,
                 schedulers: Sequence[_ParamScheduler] | None) -> list[str]:
    """Replace the optimizer's hyperparameters and the schedule in a checkpoint with those of the
    config, if they differ, before the checkpoint is loaded.

    The optimizer's moments are kept. The config's schedulers are advanced to the checkpoint's
    iteration (and epoch), so that from then on every value is that of an uninterrupted run with
    this config. If nothing differs, nothing changes.

    Args:
        checkpoint: The checkpoint of the run to resume; ``optimizer`` and ``param_schedulers`` are
            changed.
        wrapper: The config's optimizer wrapper, newly built; its optimizer's groups are advanced,
            too.
        schedulers: The config's schedulers, newly built.

    Returns:
        A line for each value that differs, with the checkpoint's and the config's value.

    Raises:
        UnsuitableConfig: The schedule depends on validations, so it cannot be advanced.
    """
    saved, given = checkpoint['optimizer'], list(schedulers or ())
    lines = [*_differing_groups(saved['param_groups'], wrapper.optimizer.param_groups),
             *_differing_schedulers(checkpoint.get('param_schedulers') or [], given)]
    if lines:
        if any(getattr(scheduler, 'need_val_args', False) for scheduler in given):
            raise UnsuitableConfig(
                f'`param_scheduler` and `optim_wrapper.optimizer` should be those of the '
                f'checkpoint, since ReduceOnPlateau depends on validations that a resumed run does '
                f'not repeat, but they differ: {"; ".join(lines)}. Restore them, or {_START_ANEW}')
        _bring_forward(given, checkpoint['meta']['iter'], checkpoint['meta']['epoch'])
        for old, new in zip(saved['param_groups'], wrapper.optimizer.param_groups, strict=True):
            own = {name: value for name, value in new.items() if name != 'params'}
            _replace(old, dict(params=old['params'], **own))
        if wrapper.base_param_settings is not None:
            saved['base_param_settings'] = dict(wrapper.base_param_settings)
        if schedulers is not None:
            checkpoint['param_schedulers'] = [scheduler.state_dict() for scheduler in given]
    return lines + _settle_loss_scale(saved, wrapper)


def describe_changes(then: str | None, now: str) -> list[str]:
    """The differences between the texts of two configs, as 'key old -> new', except for entries
    about paths and display and those that :func:`apply_config` compares. No code in the texts is
    run."""
    if not read_config_text(then):
        return []
    old, new = (_entries(text) for text in (then, now))
    names = [name for name in dict.fromkeys([*old, *new])
             if not any(name == aside or name.startswith(f'{aside}.') for aside in _ASIDE)]
    return [f'{name} {_short(old, name)} -> {_short(new, name)}' for name in names
            if _meant(name, old) != _meant(name, new)]


def say_changes(changes: Sequence[str], logger: logging.Logger) -> None:
    """Log the result of :func:`describe_changes` and its effect on data and validations."""
    if not changes:
        return
    shown = [*changes[:_SHOWN], *[f'{len(changes) - _SHOWN} more'] * (len(changes) > _SHOWN)]
    logger.warning("--resume: these settings differ from the checkpoint's; the config's apply from "
                   'here on: ' + '; '.join(shown))
    if any(line.startswith('train_dataloader.') for line in changes):
        logger.warning('--resume: the training data differ; they continue after the same number of '
                       'batches, so samples may be repeated or left out')
    if any(line.startswith('val_') for line in changes):
        logger.warning('--resume: validations differ, but the best score so far was measured with '
                       'the previous settings')


def read_config_text(text: str | None) -> dict[str, Any]:
    """The entries of a config as stored in a checkpoint, in lines of ``name = literal``; other
    expressions remain source text. Empty if the text is missing or does not parse."""
    try:
        body = ast.parse(text or '').body
    except (SyntaxError, ValueError):
        return {}
    return {line.targets[0].id: _literal(line.value) for line in body
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)}


def _differing_groups(saved: Sequence[dict], own: Sequence[dict]) -> Iterator[str]:
    """Yield the hyperparameters that differ, one line for each pair of values."""
    pairs: dict[tuple[str, str], int] = Counter()
    for old, new in zip(map(_as_configured, saved), map(_as_configured, own), strict=True):
        for name in old.keys() & new.keys():
            if not _same(old[name], new[name]):
                pairs[name, f'{old[name]} of the checkpoint -> {new[name]} of the config'] += 1
    for (name, change), count in sorted(pairs.items()):
        some = '' if count == len(own) else f' ({count} of {len(own)} parameter groups)'
        yield f'{name} {change}{some}'


def _as_configured(group: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a group before schedulers changed them."""
    values = {name: value for name, value in group.items()
              if name not in ('params', 'param_names') and not name.startswith('initial_')}
    start = {name.removeprefix('initial_'): value for name, value in group.items()
             if name.startswith('initial_')}
    if 'momentum' in start and 'betas' in values:  # a momentum scheduler with an Adam optimizer
        values['betas'] = (start['momentum'], *values['betas'][1:])
    return values | start


def _differing_schedulers(saved: Sequence[dict], own: Sequence[_ParamScheduler]) -> Iterator[str]:
    states = [[{name: value for name, value in state.items() if name not in _PROGRESS}
               for state in some] for some in (saved, [one.state_dict() for one in own])]
    if [state.keys() for state in states[0]] != [state.keys() for state in states[1]]:
        names = ', '.join(type(one).__name__ for one in own) or 'none'
        yield f'param_scheduler {len(saved)} of the checkpoint -> {names} of the config'
        return
    for number, (old, new) in enumerate(zip(*states, strict=True)):
        where = f'param_scheduler[{number}]' if len(own) > 1 else 'param_scheduler'
        for name in [name for name in new if not _same(old[name], new[name])]:
            yield f'{where}.{name} {old[name]} of the checkpoint -> {new[name]} of the config'


def _bring_forward(schedulers: Sequence[_ParamScheduler], iterations: int, epochs: int) -> None:
    """Step new schedulers as a run of this many iterations and epochs would. Each value is computed
    from the previous one, so no shortcut works for every kind of scheduler."""
    ends = Counter(iterations * epoch // epochs for epoch in range(1, epochs + 1))
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*scheduler.step')  # before optimizer.step
        for iteration in range(1, iterations + 1):
            for scheduler in [one for one in schedulers if not one.by_epoch]:
                scheduler.step()
            for _ in range(ends[iteration]):
                for scheduler in [one for one in schedulers if one.by_epoch]:
                    scheduler.step()


def _settle_loss_scale(saved: dict, wrapper: OptimWrapper) -> list[str]:
    """:func:`apply_config` for an AMP wrapper's loss scale: a dynamic scale is kept, unless the
    config sets a fixed one."""
    if 'loss_scaler' not in saved or not hasattr(wrapper, 'loss_scaler'):
        return []
    own, old = wrapper.loss_scaler.state_dict(), saved['loss_scaler']
    found = {'_growth_tracker'}
    if wrapper._scale_update_param is None:
        found.add('scale')
    if not old or not own:  # at least one of them does not scale
        new = own
    else:
        new = {name: old[name] if name in found else value for name, value in own.items()}
    saved['loss_scaler'] = new
    return [f'loss_scale {name} {old.get(name)} of the checkpoint -> {new.get(name)} of the config'
            for name in dict.fromkeys([*old, *new])
            if old.get(name) != new.get(name) and name != '_growth_tracker']


def _is_same_policy(state: Mapping[int, Mapping[str, Any]], sizes: Sequence[int],
                    optimizer: torch.optim.Optimizer) -> bool:
    """Whether a saved state, whose groups have these sizes, and an optimizer train the same
    parameters: those at the beginning, in both, in the same groups and with the same shapes."""
    own = [parameter for group in optimizer.param_groups for parameter in group['params']]
    shared = min(sum(sizes), len(own))
    ends = [{min(end, shared) for end in itertools.accumulate(some)}
            for some in (sizes, [len(group['params']) for group in optimizer.param_groups])]
    return (ends[0] == ends[1] and all(number < shared for number in state)
            and not any(parameter.requires_grad for parameter in own[shared:])
            and all(state[number][name].shape == own[number].shape
                    for number in state for name in _LIKE_WEIGHTS & state[number].keys()
                    if state[number][name] is not None))


def _needed(optimizer: torch.optim.Optimizer) -> set[str]:
    """The names of the hyperparameters that identify a type of optimizer."""
    return {name for name, value in optimizer.defaults.items()
            if isinstance(value, (int, float, tuple)) and not isinstance(value, bool)}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _replace(group: dict, content: dict) -> None:
    group.clear()
    group.update(content)


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == 'dict' and not node.args:
        return {str(item.arg): _literal(item.value) for item in node.keywords}
    if isinstance(node, ast.Dict):
        return {str(_literal(key)) if key else '**': _literal(value)
                for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _leaves(value: Any, where: str = '') -> Iterator[tuple[str, Any]]:
    """Yield the dotted names and the values in nested dicts and lists of dicts."""
    if isinstance(value, dict) and value:
        entries = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        entries = [(str(number), item) for number, item in enumerate(value)]
    else:
        yield where, value
        return
    for name, item in entries:
        yield from _leaves(item, f'{where}.{name}' if where else name)


def _entries(text: str | None) -> dict[str, Any]:
    """Dotted names and values, without the scopes that mmengine records for inherited entries."""
    return {name: value for name, value in _leaves(read_config_text(text))
            if not name.endswith('_scope_')}


def _meant(name: str, values: Mapping[str, Any]) -> Any:
    """A value to compare. For a `type`, it is the last part: a `type` can be written in several
    ways, and resolving one from a checkpoint would import what it names."""
    value = values.get(name, _short)
    is_type = name.rpartition('.')[2] == 'type' and isinstance(value, str)
    return value.rpartition('.')[2] if is_type else value


def _optimizer_type(text: str | None) -> Any:
    entries, name = _entries(text), 'optim_wrapper.optimizer.type'
    return _meant(name, entries) if name in entries else None


def _short_list(sizes: Sequence[int]) -> str:
    return ', '.join(map(str, sizes[:3])) + (', ...' if len(sizes) > 3 else '')


def _short(values: Mapping[str, Any], name: str) -> str:
    text = repr(values[name]) if name in values else '(none)'
    return text if len(text) <= 60 else f'{text[:57]}...'
