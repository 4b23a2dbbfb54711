# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What a resumed run needs beyond mmengine's checkpoint to end bit for bit like an uninterrupted
one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, Runner

from mmdpad.engine.build import UnsuitableConfig
from mmdpad.engine.resuming import apply_config, describe_changes, fit_optimizer, say_changes
from mmdpad.engine.unwrap import unwrap
from mmdpad.registry import HOOKS

RandomState = dict[str, Any]


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Lets a run that is killed at any moment and resumed continue as if nothing had happened.

    - The random states (Python, NumPy, torch, its CUDA device) of every process are part of each
      checkpoint. They are restored after mmengine has skipped the data already trained on, which
      may draw from them.
    - A validation leaves the random states unchanged.
    - A validation that was due at the checkpoint but not finished is run on resuming. A finished
      one without improvement is repeated, since no checkpoint is written after it.
    - A run that has reached its last iteration trains no further, and says so.

    This applies to iteration-based training; other loops are not changed.

    With any loop, settings of the config that differ from the checkpoint's apply from there on, and
    each is logged, including those of the optimizer and the schedule, which mmengine itself would
    take from the checkpoint (:func:`mmdpad.engine.resuming.apply_config`).
    """

    priority = 'LOW'  # after hooks that draw, before checkpoints are written

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Before anything is loaded, refuse to resume from weights alone or with another type of
        optimizer, and apply the config's settings.

        Raises:
            UnsuitableConfig: The run is to be resumed, but the checkpoint has no optimizer, or one
                that does not fit the config.
        """
        if not getattr(runner, '_resume', False):
            return
        if 'optimizer' not in checkpoint:
            raise UnsuitableConfig(
                'A checkpoint to resume from should hold the optimizer, but this one does not '
                '(best_*.pth never do); resume from iter_*.pth, or start a new run from these '
                'weights by `load_from`')
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapper):  # several of them
            return
        then, now = checkpoint['meta'].get('cfg'), runner.cfg.pretty_text
        fit_optimizer(checkpoint['optimizer'], wrapper, then, now)
        for line in apply_config(checkpoint, wrapper, runner.param_schedulers):
            runner.logger.warning(f'--resume: {line}, which applies from here on')
        say_changes(describe_changes(then, now), runner.logger)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: dict | None = None) -> None:
        """Add every process's random states to the checkpoint that may follow."""
        runner.message_hub.update_info('random_states', all_gather_object(random_state()))

    def before_val(self, runner: Runner) -> None:
        """Remember the random states."""
        self._before_val = random_state()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Note in the checkpoint that may follow that the validation is done."""
        runner.message_hub.update_info('iter_of_validation', runner.iter)

    def after_val(self, runner: Runner) -> None:
        """Restore the random states from before it."""
        set_random_state(self._before_val)

    def before_train_epoch(self, runner: Runner) -> None:
        """Restore a resumed run, before mmengine skips its data."""
        loop, hub = runner.train_loop, runner.message_hub
        if not isinstance(loop, IterBasedTrainLoop) or not loop.iter:
            return
        budget = getattr(getattr(unwrap(runner.model), 'policy', None), 'memory_budget', None)
        if budget is not None:
            budget.has_state = True  # 'auto' need not leave room for it
        states = hub.get_info('random_states') or []
        if len(states) == get_world_size():
            set_random_state(states[get_rank()])
        else:
            runner.logger.warning(
                f'The checkpoint has the random states of {len(states)} processes, but there are '
                f'{get_world_size()}: the run continues, but not exactly as it would have')
        if _validation_is_due(loop, runner.val_loop) and (
                hub.get_info('iter_of_validation') != loop.iter):
            runner.logger.info(f'The validation at iteration {loop.iter} is run now')
            hub.update_info('iter', loop.iter - 1)  # the last one, counted from 0
            runner.val_loop.run()
        if loop.iter < loop.max_iters:
            loop.dataloader_iterator = _restoring(loop.dataloader_iterator, loop.iter)
        else:
            runner.logger.warning(f'Nothing is left to train: the checkpoint is of iteration '
                                  f'{loop.iter} of {loop.max_iters}; to continue, raise '
                                  f'`train_cfg.max_iters`')
            loop.dataloader_iterator = itertools.repeat(None)


def random_state() -> RandomState:
    """The states of Python's, NumPy's and torch's generators, as plain data."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = cast(tuple, np.random.get_state())
    state = dict(python=[version, torch.tensor(numbers), gauss],
                 numpy=[name, torch.tensor(keys.astype(np.int64)), *rest],
                 torch=torch.get_rng_state())
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: RandomState) -> None:
    """Restore what :func:`random_state` returned."""
    version, numbers, gauss = state['python']
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


def _restoring(batches: Iterator[Any], skipped: int) -> Iterator[Any]:
    """The same batches; the first ones, which mmengine only skips, leave the random states
    unchanged."""
    state = random_state()
    yield from itertools.islice(batches, skipped - 1)
    last = next(batches)
    set_random_state(state)
    yield last
    yield from batches


def _validation_is_due(loop: IterBasedTrainLoop, val_loop: Any) -> bool:
    """Whether the loop validates after its current iteration."""
    loop._decide_current_val_interval()
    return (val_loop is not None and loop.iter >= loop.val_begin
            and (loop.iter % loop.val_interval == 0 or loop.iter == loop.max_iters))
