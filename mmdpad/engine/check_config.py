# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks the values of a config before anything is built or read from files."""

from __future__ import annotations

import copy
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import get_all_start_methods
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import init_dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    TestLoop,
    ValLoop,
)
from mmengine.utils.dl_utils import set_multi_processing
from mmengine.visualization import Visualizer
from torch import nn
from torch.cuda.amp import GradScaler
from torch.distributed import init_process_group
from torch.utils.data import DataLoader

from mmdpad import registry
from mmdpad.evaluation.readable import find_unreadable
from mmdpad.models import VLMReasoningHead
from mmdpad.models.precision import find_untrainable, find_wrong_dtype
from mmdpad.registry import OPTIM_WRAPPERS, STRATEGIES, is_kind, scope_of, type_name
from mmdpad.utils import LOADERS
from mmdpad.utils.argument_types import find_wrong_types

from .check_arguments import (
    REFUSALS,
    TAKEN_OUT,
    check_node,
    check_place,
    describe_refusal,
    find_wrong_arguments,
    unknown_keys,
)
from .check_effect import find_old_names, find_stuck_schedules, find_unknown_switches
from .check_together import find_clashes, find_misspelled_entries, find_wrong_compile
from .config_nodes import Node, find_nodes
from .flags import find_wrong_scaling
from .signatures import known_arguments

STRATEGY = 'mmdpad.FSDP2Strategy'
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
_DEFAULT_KINDS = dict(
    train_cfg=(EpochBasedTrainLoop, IterBasedTrainLoop), val_cfg=(ValLoop, ), test_cfg=(TestLoop, ),
    optim_wrapper=(OptimWrapper, ), log_processor=(LogProcessor, ), visualizer=(Visualizer, ),
    model_wrapper_cfg=(MMDistributedDataParallel, ))
_LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')
_BY_PRECISION = ('loss_scale', 'dtype', 'use_fsdp')


@dataclass
class Findings:
    """The findings of :func:`check_config`.

    Attributes:
        problems: One line per problem, with key, value and hint.
        nodes: All dicts with a ``type`` that a run reads.
        misnamed: ``id`` of the nodes' entries with a wrong type or wrong arguments.
        unreadable: ``id`` of the entries among them whose arguments have wrong types.
        readable: Whether all values have the types that their readers expect.
    """

    problems: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    misnamed: set[int] = field(default_factory=set)
    unreadable: set[int] = field(default_factory=set)
    readable: bool = True

    @property
    def policy(self) -> Node | None:
        """``model.policy``, if it is one of ours."""
        return next((node for node in self.nodes if node.path == 'model.policy'
                     and node.is_kind(VLMReasoningHead)), None)


def check_config(config: Config, training: bool = True) -> Findings:
    """Check all values of a config that a run reads.

    Args:
        config: The config of a run.
        training: Whether the run is ``tools/train.py``; ``tools/test.py`` reads less.
    """
    part = _relevant(config, training)
    found = Findings(list(_check_entries(part)) or list(_check_shape(part, '')))
    found.problems += find_misspelled_entries(config)
    found.readable = not found.problems
    found.problems += [*find_old_names(part), *find_unknown_switches(config)]
    if not found.readable:
        return found
    with DefaultScope.overwrite_default_scope(scope_of(config)):
        wrong = list(_check_sections(part))
        found.problems += wrong
        found.readable = not wrong
        found.nodes = list(find_nodes(part))
        for node in found.nodes:
            unreadable = list(find_wrong_arguments(node))
            if wrong := list(check_node(node, unreadable)):
                found.problems += wrong
                found.misnamed.add(id(node.entry))
            if unreadable:
                found.unreadable.add(id(node.entry))
        found.readable &= not found.unreadable
        found.problems += find_unreadable(found.nodes)
        if found.readable:
            if training:
                found.problems += [*find_wrong_scaling(config), *find_stuck_schedules(found.nodes)]
            if training and not found.problems:
                found.problems += _check_optimizer(config)
            if training:
                found.problems += _check_trainable(found.policy)
            found.problems += find_clashes(config, found.nodes, training)
    if problem := find_wrong_strategy(config):
        found.problems.append(problem)
    found.problems = list(dict.fromkeys(found.problems))
    return found


def find_wrong_strategy(config: Mapping[str, Any]) -> str | None:
    """The problem with a config's ``strategy``, with a hint; None if the strategy is valid."""
    from .strategies import FSDP2Strategy  # here, since strategies import this module
    strategy = config.get('strategy')
    if strategy is None:
        return None
    # mmengine builds the strategy before it knows the config's scope.
    if is_kind(strategy, FSDP2Strategy, STRATEGIES, 'mmengine'):
        return next((problem for key in ('param_dtype', 'reduce_dtype')
                     if isinstance(strategy.get(key), str) and (problem := find_wrong_dtype(
                         f'strategy.{key}', strategy[key]))), None)
    return (f'`strategy.type` should be {STRATEGY!r}, but got {type_name(strategy)!r}: '
            f'`GRPOTrainLoop` accumulates gradients itself, which the optimizer wrappers of '
            f"mmengine's other strategies (DeepSpeed, ColossalAI) cannot. Leave `strategy` out "
            f'for plain data parallel training')


def _relevant(config: Config, training: bool) -> dict[str, Any]:
    """The part of a config that the run reads."""
    if training:
        return dict(config)
    skipped = ('train_', 'val_', 'optim_wrapper', 'param_scheduler')
    return {key: value for key, value in config.items() if not key.startswith(skipped)}


def _check_entries(part: Mapping[str, Any]) -> Iterator[str]:
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


def _check_shape(value: Any, path: str) -> Iterator[str]:
    """Yield the values that should be a dict with a ``type`` but are not."""
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _check_shape(item, f'{path}.{number}')
    elif isinstance(value, Mapping):
        for key, item in value.items():
            where = f'{path}.{key}' if path else str(key)
            yield from _check_place(key, item, where, path)
            if path or key in _READ:
                yield from _check_shape(item, where)


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


_READ = frozenset((*_AT_TOP, *_LISTS, *_ONE_OR_LISTS, *_NAMED, *_TYPE_OPTIONAL, *LOADERS))


def _check_sections(part: Mapping[str, Any]) -> Iterator[str]:
    """Check dicts without a ``type``, which mmengine passes to functions with fixed arguments."""
    def environment(mp_cfg: dict, dist_cfg: dict, cudnn_benchmark: bool = False,
                    resource_limit: int = 4096) -> None: ...

    def slurm(port: int | None = None) -> None: ...

    def loader(batch_size: int = 1, shuffle: bool | None = None, num_workers: int = 0,
               pin_memory: bool = False, drop_last: bool = False, timeout: float = 0.0,
               prefetch_factor: int | None = None, persistent_workers: bool = False,
               num_batch_per_epoch: int | None = None, disable_subprocess_warning: bool = False,
               worker_init_fn: dict | None = None) -> None: ...

    def seeding(seed: int | None = None, diff_rank_seed: bool = False,
                deterministic: bool = False) -> None: ...

    def clipping(max_norm: float = 1.0, norm_type: float = 2.0, clip_value: float = 1.0,
                 error_if_nonfinite: bool = False, foreach: bool | None = None,
                 type: str = 'norm') -> None: ...

    def scaling(enable: bool = False, base_batch_size: int = 1) -> None: ...

    def logs(window_size: int = 10) -> None: ...

    env, wrapper = part.get('env_cfg') or {}, part.get('optim_wrapper') or {}
    yield from _check_section(env, 'env_cfg', environment)
    yield from _check_section(env.get('mp_cfg'), 'env_cfg.mp_cfg', set_multi_processing)
    processes = env.get('mp_cfg')
    start = processes.get('mp_start_method') if isinstance(processes, Mapping) else None
    if isinstance(start, str) and start not in get_all_start_methods():
        yield (f'`env_cfg.mp_cfg.mp_start_method` should be one of {get_all_start_methods()}, but '
               f'got {start!r}; correct it')
    yield from _check_section(env.get('dist_cfg'), 'env_cfg.dist_cfg', init_dist,
                              init_process_group, slurm)
    yield from _check_section(part.get('randomness'), 'randomness', seeding)
    yield from _check_section(part.get('auto_scale_lr'), 'auto_scale_lr', scaling)
    yield from _check_section(part.get('log_processor'), 'log_processor', logs, closed=False)
    yield from find_wrong_compile(part)
    yield from _check_untyped(part)
    if is_kind(wrapper, AmpOptimWrapper, OPTIM_WRAPPERS):
        yield from _check_amp(wrapper)
    yield from _check_section(wrapper.get('clip_grad'), 'optim_wrapper.clip_grad', clipping)
    yield from _check_multipliers(wrapper.get('paramwise_cfg'), 'constructor' in wrapper)
    yield from _check_ranges(part)
    for name in LOADERS:
        wrong = list(_check_section(part.get(name), name, loader, DataLoader))
        yield from wrong
        if (given := part.get(name)) is None:
            continue
        if given.get('dataset') is None:
            yield f'`{name}` needs the entry `dataset`; add it'
        if 'sampler' not in given or given['sampler'] is None and given.get('batch_sampler'):
            yield f'`{name}` needs the entry `sampler`; add it'
        if not wrong:
            yield from _check_loader(given, name)


def _check_untyped(part: Mapping[str, Any]) -> Iterator[str]:
    """Check the dicts in which mmengine fills in a `type`."""
    for name, kinds in _DEFAULT_KINDS.items():
        given = part.get(name)
        if isinstance(given, Mapping) and 'type' not in given:
            known = set().union(*(known_arguments(kind) or () for kind in kinds))
            if known:
                yield from unknown_keys(given, known | TAKEN_OUT | {'by_epoch'}, name,
                                        kinds[0].__name__)


def _check_multipliers(given: Any, custom_constructor: bool) -> Iterator[str]:
    """Check `paramwise_cfg`, which mmengine reads for each weight."""
    def rules(bias_lr_mult: float = 1.0, bias_decay_mult: float = 1.0,
              norm_decay_mult: float = 1.0, dwconv_decay_mult: float = 1.0,
              flat_decay_mult: float = 1.0, dcn_offset_lr_mult: float = 1.0,
              bypass_duplicate: bool = False, custom_keys: dict | None = None) -> None: ...

    def multipliers(lr_mult: float = 1.0, decay_mult: float = 1.0) -> None: ...

    path = 'optim_wrapper.paramwise_cfg'
    yield from _check_section(given, path, rules, closed=not custom_constructor)
    if isinstance(given, Mapping) and isinstance(given.get('custom_keys'), Mapping):
        for name, one in given['custom_keys'].items():
            yield from _check_section(one or {}, f'{path}.custom_keys.{name}', multipliers,
                                      closed=False)
            # Other keys are entries of a parameter group; these are most likely misspelled.
            yield from unknown_keys([key for key in one or () if str(key).endswith('mult')]
                                    if isinstance(one, Mapping) else (),
                                    ('lr_mult', 'decay_mult'), f'{path}.custom_keys.{name}',
                                    'mmengine')


def _check_ranges(part: Mapping[str, Any]) -> Iterator[str]:
    """Yield the numbers of the right type that make no sense."""
    loop, clip = (part.get('train_cfg') or {}), (part.get('optim_wrapper') or {}).get('clip_grad')
    for name in ('max_iters', 'max_epochs', 'val_interval'):
        if type(loop.get(name)) in (int, float) and loop[name] < 1:
            yield f'`train_cfg.{name}` should be at least 1, but got {loop[name]}; correct it'
    for name in ('max_norm', 'clip_value'):
        value = clip.get(name) if isinstance(clip, Mapping) else None
        if isinstance(value, (int, float)) and value <= 0:
            yield (f'`optim_wrapper.clip_grad.{name}` should be positive (other values reverse or '
                   f'erase the gradients), but got {value}; correct it')
    seed = (part.get('randomness') or {}).get('seed')
    if type(seed) is int and not 0 <= seed < 2**32:
        yield f'`randomness.seed` should be in [0, 2**32), but got {seed}; correct it'


def _check_amp(wrapper: Mapping[str, Any]) -> Iterator[str]:
    """Check what AmpOptimWrapper itself only checks if there is a GPU."""
    dtype = wrapper.get('dtype')
    if dtype is not None and (problem := find_wrong_dtype('optim_wrapper.dtype', dtype)):
        yield problem
    scale = wrapper.get('loss_scale', 'dynamic')
    if isinstance(scale, Mapping):
        yield from _check_section(scale, 'optim_wrapper.loss_scale', GradScaler)
    elif not (scale == 'dynamic' or isinstance(scale, float)):
        yield (f"`optim_wrapper.loss_scale` should be 'dynamic', a float or a dict of GradScaler's "
               f'arguments, but got {scale!r}; correct it')


def _check_loader(given: Mapping[str, Any], path: str) -> Iterator[str]:
    """Check the numbers that torch rejects, alone or in combination. No worker is started."""
    names = ('batch_size', 'drop_last', 'num_workers', 'persistent_workers', 'prefetch_factor',
             'timeout')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # more workers than cores: the run itself warns
            DataLoader([None], **{name: given[name] for name in names if name in given})  # type: ignore[arg-type]
    except REFUSALS as error:
        yield describe_refusal(path, given, error)


def _check_section(given: Any, path: str, *takers: Callable, closed: bool = True) -> Iterator[str]:
    if given is None:
        return
    if not isinstance(given, Mapping):
        yield f"`{path}` should be dict, but got {given!r}; on a command line: '{path}=dict(...)'"
        return
    if closed:
        known = {name for taker in takers for name in inspect.signature(taker).parameters}
        yield from unknown_keys(given, known - {'self', 'distributed', 'launcher'}, path,
                                f'`{path}`')
    yield from find_wrong_types(takers[0], given, path)


def _check_optimizer(config: Mapping[str, Any]) -> Iterator[str]:
    """Build the optimizer, its wrapper and the schedulers for a tiny layer."""
    given = config.get('optim_wrapper')
    if not given:
        return
    wrapper = {key: copy.deepcopy(value) for key, value in given.items() if key != 'paramwise_cfg'}
    if 'optimizer' not in wrapper and 'constructor' not in wrapper:
        yield '`optim_wrapper` needs the entry `optimizer`; add it'
        return
    if is_kind(wrapper, AmpOptimWrapper, OPTIM_WRAPPERS) and not torch.cuda.is_available():
        wrapper = {key: value for key, value in wrapper.items() if key not in _BY_PRECISION}
        wrapper['type'] = OptimWrapper
    if 'constructor' in wrapper:
        return  # it may need the real model
    path, entry = 'optim_wrapper', given
    try:
        built = build_optim_wrapper(nn.Linear(1, 1), ConfigDict(wrapper))
        schedulers = config.get('param_scheduler') or []
        many = isinstance(schedulers, (list, tuple))
        for number, scheduler in enumerate(schedulers if many else [schedulers]):
            path, entry = 'param_scheduler' + f'.{number}' * many, scheduler
            made = registry.PARAM_SCHEDULERS.build(
                {key: value for key, value in scheduler.items() if key != 'convert_to_iter_based'},
                default_args=dict(optimizer=built))
            if not getattr(made, 'need_val_args', False):
                with warnings.catch_warnings():
                    warnings.simplefilter('ignore')  # no optimizer step comes before it
                    made.step()
    except (*REFUSALS, ArithmeticError) as error:
        yield describe_refusal(path, entry, error)
    except ImportError:  # a missing package is reported elsewhere
        pass


def _check_trainable(policy: Node | None) -> Iterator[str]:
    if policy is not None and (problem := find_untrainable(policy.entry, policy.path)):
        yield problem
