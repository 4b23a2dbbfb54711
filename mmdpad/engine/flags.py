# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Translates the flags of mmdet's train.py and test.py into changes to a config."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from typing import Any

from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import DefaultScope

from mmdpad.models import ReasoningSegmentor
from mmdpad.registry import MODELS, OPTIM_WRAPPERS, is_kind, resolve, scope_of, type_name

from .config_nodes import find_nodes

_NO_TTA = (
    "--tta is not supported. mmdet's views are flipped images, in which 'left' in a question means "
    'right; its `DetTTAModel` merges boxes by NMS and rejects masks; and a policy is trained on '
    'model images of one size, so other scales change the task. Leave it out. For several answers '
    'to a question, set `model.test_cfg.temperature=1.0` and `model.test_cfg.seed`; to test the '
    "boxes of a detector with views, use mmdet's own tools/test.py")


def apply_flags(config: Config, args: argparse.Namespace) -> list[str]:
    """Apply ``--amp``, ``--auto-scale-lr``, ``--show``, ``--show-dir`` and ``--wait-time`` to a
    config, and check ``--out``.

    Args:
        config: The config of a run, with its ``work_dir``.
        args: The command line of ``tools/train.py`` or ``tools/test.py``.

    Returns:
        One line, with a hint, for each flag that cannot be applied; ``--tta`` never can.
    """
    with DefaultScope.overwrite_default_scope(scope_of(config)):
        return list(_apply(config, args))


def _apply(config: Config, args: argparse.Namespace) -> Iterator[str]:
    if getattr(args, 'amp', False):
        yield from _use_amp(config, here=not (args.dry_run or args.smoke))
    if getattr(args, 'auto_scale_lr', False):
        yield from _scale_lr(config)
    if getattr(args, 'show', False) or getattr(args, 'show_dir', None):
        yield from _show(config, args)
    if getattr(args, 'tta', False):
        yield _NO_TTA
    if getattr(args, 'out', None):
        yield from _find_taken(config, args.out)


def _use_amp(config: Config, here: bool) -> Iterator[str]:
    """``here``: whether the run is on this machine."""
    wrapper = config.get('optim_wrapper')
    entry = dict(type=OptimWrapper) | dict(wrapper) if isinstance(wrapper, Mapping) else {}
    kind = resolve(entry, OPTIM_WRAPPERS)
    if kind is not OptimWrapper and not is_kind(entry, AmpOptimWrapper, OPTIM_WRAPPERS):
        yield ('--amp turns the OptimWrapper in `optim_wrapper` into an AmpOptimWrapper, but got '
               f'{wrapper if kind is None else type_name(wrapper)!r}; set its precision in the '
               f'config')
        return
    if here and get_device() in ('cpu', 'mps'):
        yield '--amp needs a GPU, but there is none; leave it out to train here'
    if kind is OptimWrapper:
        wrapper['type'] = 'AmpOptimWrapper'
        if _is_segmentor(config):  # as in configs/_base_/schedules/grpo.py
            wrapper.setdefault('dtype', 'bfloat16')
        wrapper.setdefault('loss_scale', 'dynamic')


def _scale_lr(config: Config) -> Iterator[str]:
    scaling = config.get('auto_scale_lr')
    if not isinstance(scaling, dict) or 'base_batch_size' not in scaling:
        yield ('--auto-scale-lr needs `auto_scale_lr.base_batch_size`, the number of items that '
               'all processes together load for a step at the learning rate of the config, but '
               f'got {scaling!r}; set it: --cfg-options auto_scale_lr.base_batch_size=16')
        return
    scaling['enable'] = True


def find_wrong_scaling(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the reasons why ``auto_scale_lr`` of a config would scale the learning rate wrongly.

    mmengine multiplies the learning rate by ``batch_size`` of the train data loader x processes /
    ``base_batch_size``. If a loop's optimizer steps use fewer prompts, this is not the batch size
    of a step.
    """
    scaling = config.get('auto_scale_lr')
    if not isinstance(scaling, Mapping) or not scaling.get('enable'):
        return
    base = scaling.get('base_batch_size')
    if base is None or type(base) is int and base < 1:  # wrong types are reported elsewhere
        yield f'`auto_scale_lr.base_batch_size` should be at least 1, but got {base!r}; correct it'
    batch = (config.get('train_dataloader') or {}).get('batch_size', 1)
    update = (config.get('train_cfg') or {}).get('prompts_per_update')
    if update not in (None, batch):
        yield (f'`auto_scale_lr` scales by `train_dataloader.batch_size` ({batch}), which should '
               f'be the prompts of an optimizer step, but `train_cfg.prompts_per_update` is '
               f'{update}; remove one of the two, and set `optim_wrapper.optimizer.lr` '
               f'yourself')


def _show(config: Config, args: argparse.Namespace) -> Iterator[str]:
    if args.wait_time < 0:
        yield (f'--wait-time should be 0 (until a key is pressed) or more seconds, but got '
               f'{args.wait_time:g}; correct it')
    if args.show and (backend := _screenless_backend()):
        yield (f'--show needs a screen, but matplotlib has none here (its backend is '
               f'{backend!r}); write the pictures to a folder with --show-dir')
    if args.show_dir and os.path.isfile(args.show_dir):
        yield f'--show-dir should be a folder, but {args.show_dir!r} is a file; choose another'
    if config.get('default_hooks') is None:
        config.default_hooks = {}
    hooks = config.default_hooks
    if _is_segmentor(config):
        hook = dict(hooks.get('answer_pictures')
                    or dict(type='mmdpad.ReasonSegVisualizationHook'))
        hook.update(show=args.show, wait_time=args.wait_time, test_out_dir=args.show_dir)
        hooks['answer_pictures'] = hook
    elif hooks.get('visualization'):
        # The hook joins the folder to the work dir again for each batch.
        config.work_dir = os.path.abspath(config.work_dir)
        trigger_visualization_hook(config, args)
    else:
        yield ("--show and --show-dir need mmdet's hook if the model is from mmdet; add "
               "`default_hooks.visualization=dict(type='DetVisualizationHook')`")


def _find_taken(config: Config, out: str) -> Iterator[str]:
    """Metrics that would write a file of their own to ``--out``."""
    for node in find_nodes(config):
        file = node.entry.get('out_file') if node.path.startswith('test_evaluator') else None
        if isinstance(file, str) and os.path.abspath(
                os.path.splitext(file)[0] + '.json') == os.path.abspath(out):
            yield (f'--out should be another file than that of a single metric, but got {out!r}, '
                   f'which `{node.path}.out_file` {file!r} puts beside its lines; rename one')


def _screenless_backend() -> str | None:
    """matplotlib's backend, if it opens no windows."""
    import matplotlib.pyplot as plt
    figure = plt.figure()
    try:
        interactive = figure.canvas.required_interactive_framework
    finally:
        plt.close(figure)
    return None if interactive else plt.get_backend()


def _is_segmentor(config: Mapping[str, Any]) -> bool:
    model = config.get('model')
    return isinstance(model, Mapping) and is_kind(model, ReasoningSegmentor, MODELS)
