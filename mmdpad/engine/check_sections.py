# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks the dicts without a `type`, which mmengine passes to functions or builds by default."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import get_all_start_methods
from typing import Any

from mmengine.dist import init_dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LogProcessor,
    TestLoop,
    ValLoop,
)
from mmengine.utils.dl_utils import set_multi_processing
from mmengine.visualization import Visualizer
from torch.cuda.amp import GradScaler
from torch.distributed import init_process_group
from torch.utils.data import DataLoader

from mmdpad.models.precision import find_wrong_dtype
from mmdpad.registry import OPTIM_WRAPPERS, is_kind
from mmdpad.utils import LOADERS
from mmdpad.utils.argument_types import find_wrong_types

from .check_together import find_wrong_compile
from .refusals import REFUSALS, describe_refusal, unknown_keys
from .signatures import TAKEN_OUT, known_arguments

_DEFAULT_KINDS = dict(
    train_cfg=(EpochBasedTrainLoop, IterBasedTrainLoop), val_cfg=(ValLoop, ), test_cfg=(TestLoop, ),
    optim_wrapper=(OptimWrapper, ), log_processor=(LogProcessor, ), visualizer=(Visualizer, ),
    model_wrapper_cfg=(MMDistributedDataParallel, ))


def check_sections(part: Mapping[str, Any]) -> Iterator[str]:
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
