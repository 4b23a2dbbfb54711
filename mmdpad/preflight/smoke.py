# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Run any config in seconds: two steps, a validation, a checkpoint, a resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmcv.transforms import Resize
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmdpad.datasets.wrappers import open_wrappers
from mmdpad.engine.config_nodes import find_nodes
from mmdpad.models import ConceptAgent, ReasoningSegmentor
from mmdpad.models.rollouts import DrawingEngine
from mmdpad.registry import LOOPS, MODELS, OPTIM_WRAPPERS, ROLLOUTS, is_kind, scope_of, type_name
from mmdpad.tasks import task_arguments
from mmdpad.utils import LOADERS

from . import scripted_rollout  # noqa: F401 registers it
from .synthetic_data import TARGET, first_class
from .tiny_replacements import Notes, replace_data, replace_models

STEPS = 2
_PROMPTS, _GROUP, _TOKENS, _IMAGE = 2, 4, 400, (128, 128)
# Read by an agent, whichever it asks for.
_AGENT_ANSWERS = '<phrase>red square</phrase><verdict>accept</verdict>'


def make_smoke_config(config: Config, work_dir: str, folder: Path,
                      weights: Path | None = None) -> tuple[Config, Notes]:
    """Make the same config with tiny random models, synthetic data and only two steps.

    Args:
        config: The config of a training run; it is not changed.
        work_dir: The work dir of the smoke run.
        folder: Where to write the tiny replacements.
        weights: Where to write the models' weights; several configs may share this folder.

    Returns:
        The config, and one line for each replacement.
    """
    config = copy_config(config)
    notes = replace_models(config, weights or folder / 'weights')
    notes += replace_data(config, folder / 'data')
    with DefaultScope.overwrite_default_scope(scope_of(config)):
        _play_script(config, notes)
        _cut(config, notes)
    config.work_dir = work_dir
    return config, notes


def run_smoke(config: Config, report: Callable[[str], None] = print) -> Runner:
    """Train one step and save a checkpoint; resume in a new runner, train the second, validate.

    Args:
        config: From :func:`make_smoke_config`; its work dir should hold no checkpoints.
        report: Called with each line of the result.

    Returns:
        The second runner.

    Raises:
        RuntimeError: The run did not resume from the checkpoint.
    """
    first, config = copy_config(config), copy_config(config)
    with DefaultScope.overwrite_default_scope(scope_of(config)):
        limit = _limit(config)
    first.train_cfg[limit] = 1
    Runner.from_cfg(first).train()
    config.resume = True
    if config.get('experiment_name'):
        config.experiment_name += '_resumed'
    runner = Runner.from_cfg(config)
    runner.train()
    done = runner.iter if limit == 'max_iters' else runner.epoch
    if done != STEPS or not runner._resume:
        raise RuntimeError(f'A smoke run should end after {STEPS} steps, the second of them '
                           f'resumed, but ended after {done}')
    report(f'smoke: {STEPS} steps, a checkpoint, a resume from it'
           + (' and a validation' if config.get('val_cfg') else '')
           + ' succeeded')
    return runner


def copy_config(config: Config) -> Config:
    """Copy a config so that no dict or list is shared, within it or with the original. Types given
    as classes stay classes."""
    return Config(config._to_lazy_dict())


def _set(entry: dict, path: str, notes: Notes, **values: Any) -> None:
    """Set entries and note each change of a value."""
    for name, value in values.items():
        before = entry.get(name)
        if before != value:
            entry[name] = value
            notes.append(f'{path}.{name}: {value!r} in place of {before!r}'.lstrip('.'))


def _limit(config: Config) -> str:
    """Return the name of the training loop's limit."""
    loop = config.train_cfg
    if 'type' not in loop:  # mmengine's default loop, chosen by `by_epoch`
        return 'max_epochs' if loop.get('by_epoch', True) else 'max_iters'
    if is_kind(loop, EpochBasedTrainLoop, LOOPS):
        return 'max_epochs'
    if not is_kind(loop, IterBasedTrainLoop, LOOPS):
        raise ValueError(f'`train_cfg.type` should be a loop over iterations or epochs, so '
                         f'that --smoke can limit it, but got {type_name(loop)!r}; '
                         f'derive it from IterBasedTrainLoop or EpochBasedTrainLoop')
    return 'max_iters'


def _play_script(config: Config, notes: Notes) -> None:
    """Make every second response of a policy correct."""
    if not is_kind(config.model, ReasoningSegmentor, MODELS):
        return
    engine = config.model.get('rollout_engine') or dict(type='SharedPrefixRollout')
    if not is_kind(engine, DrawingEngine, ROLLOUTS):
        notes.append(f'model.rollout_engine: SharedPrefixRollout in place of {type_name(engine)}, '
                     f'which loads its own model')
        engine = dict(type='SharedPrefixRollout', records_log_probs=True)
    classes = (first_class(dataset) for name in LOADERS
               for dataset in open_wrappers((config.get(name) or {}).get('dataset') or []))
    tasks = config.model.get('tasks')
    if tasks is None:
        own = task_arguments(config.model)
        own.pop('prompt_template')
        tasks = dict(segmentation=dict(own, type='SegmentationTask'))
    config.model.rollout_engine = dict(
        type='ScriptedRollout', engine=engine, box=TARGET, tasks=tasks,
        label=next(filter(None, classes), 'square'))
    if is_kind(config.model, ConceptAgent, MODELS):
        config.model.rollout_engine.suffix = _AGENT_ANSWERS
    notes.append(f'model.rollout_engine ({type_name(engine)}): every second response is replaced '
                 f'by a correct one, the others end after 8 tokens')


def _cut(config: Config, notes: Notes) -> None:
    """Reduce settings that cost time or memory."""
    by_epoch = _limit(config) == 'max_epochs'
    for name in LOADERS:
        if loader := config.get(name):
            _set(loader, name, notes, batch_size=_PROMPTS * (1 + by_epoch), num_workers=0,
                 persistent_workers=False)
            for key in ('prefetch_factor', 'pin_memory', 'timeout'):
                loader.pop(key, None)
    loop = config.train_cfg
    _set(loop, 'train_cfg', notes, **{_limit(config): STEPS}, val_interval=1, val_begin=STEPS)
    if (loop.get('prompts_per_update') or _PROMPTS) > _PROMPTS:
        _set(loop, 'train_cfg', notes, prompts_per_update=_PROMPTS)
    checkpoint = config.setdefault('default_hooks', {}).setdefault(
        'checkpoint', dict(type='CheckpointHook', by_epoch=by_epoch))
    _set(checkpoint, 'default_hooks.checkpoint', notes, interval=1)
    for name in ('train_cfg', 'test_cfg'):
        sampling = config.model.get(name) or {}
        if 'max_new_tokens' in sampling or name == 'train_cfg' and 'group_size' in sampling:
            _set(sampling, f'model.{name}', notes, max_new_tokens=_TOKENS)
        for key in ('group_size', 'num_samples'):
            if (sampling.get(key) or 0) > _GROUP:
                _set(sampling, f'model.{name}', notes, **{key: _GROUP})
    talk = config.model.get('conversation') or {}
    if talk.get('max_tokens', _TOKENS) < _TOKENS:
        _set(talk, 'model.conversation', notes, max_tokens=_TOKENS)
    for node in find_nodes(config):
        if node.is_kind(Resize) and 'scale' in node.entry:
            _set(node.entry, node.path, notes, scale=_IMAGE)
    wrapper = config.optim_wrapper
    if is_kind(wrapper, AmpOptimWrapper, OPTIM_WRAPPERS) and not torch.cuda.is_available():
        notes.append(f'optim_wrapper: OptimWrapper, in float32, in place of AmpOptimWrapper in '
                     f'{wrapper.pop("dtype", "float16")}, which needs a GPU')
        wrapper.type = 'OptimWrapper'
        for key in ('loss_scale', 'use_fp64'):
            wrapper.pop(key, None)
    if 'strategy' in config:
        notes.append(f'strategy: none in place of {type_name(config.pop("strategy"))} '
                     f'(one process)')
    _set(config, '', notes, launcher='none', resume=False, log_level='WARNING')
