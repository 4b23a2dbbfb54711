# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What a resumed run takes from its config where that differs from the checkpoint's."""

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

# Of a scheduler's state: how far it is, not how it was set.
_PROGRESS = ('last_step', '_global_step', '_last_value', 'base_values', 'verbose')
# Of a config: where a run is and what it shows, and what is compared by its values.
_ASIDE = ('work_dir', 'load_from', 'resume', 'launcher', 'log_level', 'experiment_name',
          'visualizer', 'vis_backends', 'param_scheduler', 'optim_wrapper.optimizer',
          'optim_wrapper.paramwise_cfg', 'optim_wrapper.loss_scale', 'randomness.seed')
# Of an optimizer's state: of a weight's shape; None where a folder of parts has it.
_LIKE_WEIGHTS = {'exp_avg', 'momentum_buffer'}
_SHOWN = 20
_START_ANEW = 'start a new run from these weights by `load_from`'


def fit_optimizer(saved: dict[str, Any], wrapper: OptimWrapper, then: str | None = None,
                  now: str | None = None) -> None:
    """See that a checkpoint's optimizer state is one of the config's optimizer.

    The optimizer also holds what is not trained: behind the policy a decoder and a reference, which
    a config may have changed. These are taken in or left out.

    Args:
        saved: The wrapper's state in the checkpoint; its groups are fitted.
        wrapper: That of the config.
        then, now: The checkpoint's config, where it has one, and that of the run, as text.

    Raises:
        UnsuitableConfig: It is of another type of optimizer, or of other parameters.
    """
    optimizer, groups = wrapper.optimizer, saved['param_groups']
    before, own = (_optimizer_type(text) for text in (then, now))
    lacks = sorted(_needed(optimizer) - set(groups[0]))
    if lacks or None not in (before, own) and before != own:
        raise UnsuitableConfig(
            f'`optim_wrapper.optimizer` should be of the type whose state the checkpoint has '
            f'({before or f"one without {lacks}"}), but got {own or type(optimizer).__name__}; '
            f'take that type, or {_START_ANEW}')
    there, here = ([len(group['params']) for group in some]
                   for some in (groups, optimizer.param_groups))
    if not _is_same_policy(saved['state'], there, optimizer):
        then, now = (f'{sum(sizes)} in groups of {_short_list(sizes)}' for sizes in (there, here))
        raise UnsuitableConfig(
            f'The optimizer should have the parameters that it has in the checkpoint ({then}), but '
            f'the config gives it others ({now}); undo what was changed of the policy (`lora`, '
            f'layers) or of `optim_wrapper.paramwise_cfg`, or {_START_ANEW}')
    numbers = iter(range(sum(here)))
    saved['param_groups'] = [
        {**(groups[number] if number < len(groups) else group),
         'params': list(itertools.islice(numbers, len(group['params'])))}
        for number, group in enumerate(optimizer.param_groups)]


def apply_config(checkpoint: dict, wrapper: OptimWrapper,
                 schedulers: Sequence[_ParamScheduler] | None) -> list[str]:
    """Where hyperparameters of the optimizer or the schedule of the config differ from those in a
    checkpoint, put the config's into the checkpoint, before it is loaded.

    The optimizer's moments stay as they are. The schedulers become those of the config, brought to
    the checkpoint's iteration (and epoch), so that from there on every value is what a whole run
    with this config has there. Where nothing differs, nothing is changed.

    Args:
        checkpoint: Of a run to be resumed; ``optimizer`` and ``param_schedulers`` are changed.
        wrapper: The config's, newly built; its optimizer's groups are brought forward, too.
        schedulers: The config's, newly built.

    Returns:
        A line for each value that differs: the checkpoint's and the config's.

    Raises:
        UnsuitableConfig: The schedule follows from validations, so it cannot be brought forward.
    """
    saved, given = checkpoint['optimizer'], list(schedulers or ())
    lines = [*_differing_groups(saved['param_groups'], wrapper.optimizer.param_groups),
             *_differing_schedulers(checkpoint.get('param_schedulers') or [], given)]
    if lines:
        if any(getattr(scheduler, 'need_val_args', False) for scheduler in given):
            raise UnsuitableConfig(
                f'`param_scheduler` and `optim_wrapper.optimizer` should be those of the '
                f'checkpoint, since ReduceOnPlateau follows from validations that a resumed run '
                f'does not repeat, but they differ: {"; ".join(lines)}. Take those, or '
                f'{_START_ANEW}')
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
    """How two configs differ, by their text: 'key old -> new' for each entry, apart from those
    that say where a run is or that :func:`apply_config` compares. No code in the texts runs."""
    if not read_config_text(then):
        return []
    old, new = (dict(_leaves(read_config_text(text))) for text in (then, now))
    names = [name for name in dict.fromkeys([*old, *new])
             if not any(name == aside or name.startswith(f'{aside}.') for aside in _ASIDE)]
    return [f'{name} {_short(old, name)} -> {_short(new, name)}' for name in names
            if old.get(name, _short) != new.get(name, _short)]


def say_changes(changes: Sequence[str], logger: logging.Logger) -> None:
    """Log what :func:`describe_changes` found, and what follows for data and validations."""
    if not changes:
        return
    shown = [*changes[:_SHOWN], *[f'{len(changes) - _SHOWN} more'] * (len(changes) > _SHOWN)]
    logger.warning('--resume: these settings differ from those of the checkpoint; the config '
                   'applies from here on: ' + '; '.join(shown))
    if any(line.startswith('train_dataloader.') for line in changes):
        logger.warning('--resume: the training data differ, and go on by the number of batches '
                       'that were drawn: samples may come again or be left out')
    if any(line.startswith('val_') for line in changes):
        logger.warning('--resume: validations differ, and the best score so far is one of the '
                       'earlier kind')


def read_config_text(text: str | None) -> dict[str, Any]:
    """The entries of a config as a checkpoint keeps it, ``name = literal`` line by line; what is no
    literal stays source text. Empty where there is no such text."""
    try:
        body = ast.parse(text or '').body
    except (SyntaxError, ValueError):
        return {}
    return {line.targets[0].id: _literal(line.value) for line in body
            if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)}


def _differing_groups(saved: Sequence[dict], own: Sequence[dict]) -> Iterator[str]:
    """Hyperparameters that differ, one line for each pair of values."""
    pairs: dict[tuple[str, str], int] = Counter()
    for old, new in zip(map(_as_configured, saved), map(_as_configured, own), strict=True):
        for name in old.keys() & new.keys():
            if not _same(old[name], new[name]):
                pairs[name, f'{old[name]} of the checkpoint -> {new[name]} of the config'] += 1
    for (name, change), count in sorted(pairs.items()):
        some = '' if count == len(own) else f' ({count} of {len(own)} parameter groups)'
        yield f'{name} {change}{some}'


def _as_configured(group: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a group before any scheduler."""
    values = {name: value for name, value in group.items()
              if name not in ('params', 'param_names') and not name.startswith('initial_')}
    start = {name.removeprefix('initial_'): value for name, value in group.items()
             if name.startswith('initial_')}
    if 'momentum' in start and 'betas' in values:  # a momentum scheduler of an Adam
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
    """Step new schedulers as so many iterations in so many epochs do: each value is made from the
    one before, so there is no shorter way for all kinds of them."""
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
    """As :func:`apply_config`, for an AMP wrapper: the scale that was found stays, unless the
    config fixes it."""
    if 'loss_scaler' not in saved or not hasattr(wrapper, 'loss_scaler'):
        return []
    own, old = wrapper.loss_scaler.state_dict(), saved['loss_scaler']
    found = {'_growth_tracker'}
    if wrapper._scale_update_param is None:
        found.add('scale')
    if not old or not own:  # either does not scale
        new = own
    else:
        new = {name: old[name] if name in found else value for name, value in own.items()}
    saved['loss_scaler'] = new
    return [f'loss_scale {name} {old.get(name)} of the checkpoint -> {new.get(name)} of the config'
            for name in dict.fromkeys([*old, *new])
            if old.get(name) != new.get(name) and name != '_growth_tracker']


def _is_same_policy(state: Mapping[int, Mapping[str, Any]], sizes: Sequence[int],
                    optimizer: torch.optim.Optimizer) -> bool:
    """Whether the parameters that an optimizer shares with the state of one with groups of these
    sizes, its first ones, are all that either trains, in the same groups and of the same shapes."""
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
    """Names that tell a type of optimizer: its numbers, not how it is computed."""
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
    """Dotted names and values of nested dicts; of lists those of dicts."""
    if isinstance(value, dict) and value:
        entries = list(value.items())
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        entries = [(str(number), item) for number, item in enumerate(value)]
    else:
        yield where, value
        return
    for name, item in entries:
        yield from _leaves(item, f'{where}.{name}' if where else name)


def _optimizer_type(text: str | None) -> Any:
    return dict(_leaves(read_config_text(text))).get('optim_wrapper.optimizer.type')


def _short_list(sizes: Sequence[int]) -> str:
    return ', '.join(map(str, sizes[:3])) + (', ...' if len(sizes) > 3 else '')


def _short(values: Mapping[str, Any], name: str) -> str:
    text = repr(values[name]) if name in values else '(none)'
    return text if len(text) <= 60 else f'{text[:57]}...'
