# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Builds the runner for a config."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_distributed
from mmengine.hooks import EarlyStoppingHook
from mmengine.runner import FlexibleRunner, Runner

from mmdpad.datasets.reasoning_dataset import for_evaluation
from mmdpad.models.heads.policy_source import is_about_policy
from mmdpad.models.mapped_weights import weights_left_in_files
from mmdpad.models.rollouts import RolloutEngine
from mmdpad.registry import MODELS, ROLLOUTS

from .check_config import check_config
from .check_effect import OWN_HOOKS
from .checkpoints import read_meta
from .config_nodes import Node
from .short_selectors import write_out_selectors
from .stopping import leave_no_handler, shield_workers


class UnsuitableConfig(ValueError):
    """A config from which no runner can be built."""


def build_runner(config: Config, training: bool = True) -> Runner | FlexibleRunner:
    """Build mmengine's Runner, or its FlexibleRunner if the config has a ``strategy``. Default
    hooks that are None are left out.

    Args:
        config: The config of a run.
        training: Whether the runner is for training. If not, settings that only training reads
            are not checked.

    Raises:
        UnsuitableConfig: With the problems that :func:`check_config` finds, or those of a policy's
            folder, one per line; or a package or a launcher is missing.
    """
    found = check_config(config, training)
    if found.problems:
        raise UnsuitableConfig('\n'.join(found.problems))
    if config.get('strategy') is not None and not is_distributed() and (
            config.get('launcher') or 'none') == 'none':
        raise UnsuitableConfig('`strategy` needs processes started by a launcher, but got '
                               "`launcher='none'`; use tools/dist_train.sh CONFIG GPUS, or leave "
                               '`strategy` out')
    for node in found.nodes:
        if node.is_kind(RolloutEngine):
            _check_packages(node)
    write_out_selectors(config)
    warning = keep_seed(config)
    # A tied weight has two names, so mmengine's constructor would train it twice.
    wrapper: Any = config.get('optim_wrapper') or {}
    if wrapper.get('paramwise_cfg') is not None and 'constructor' not in wrapper:
        wrapper.paramwise_cfg.setdefault('bypass_duplicate', True)
    # mmengine accepts None only for its own default hooks and asserts for any other.
    hooks = config.get('default_hooks') or {}
    for name in [name for name, hook in hooks.items() if hook is None and name not in OWN_HOOKS]:
        del hooks[name]
    with _reported_policy_problems():
        if config.get('strategy') is None:
            runner = Runner.from_cfg(config)
        else:
            if not training:  # `init_weights` refuses a policy that cannot be trained
                config.init_weights_for_test_or_val = False
            runner = FlexibleRunner.from_cfg(config)
            # FlexibleRunner builds the model after the loops, which already need it. The strategy
            # reads each process's shards; `init_cfg` would change weights before that.
            with nullcontext() if runner.model.get('init_cfg') else weights_left_in_files():
                runner.model = MODELS.build(runner.model)
    if not training:  # its `before_run` would build the loop of a training, and with it the data
        runner._hooks[:] = [hook for hook in runner._hooks
                            if not isinstance(hook, EarlyStoppingHook)]
    for name in ('_val_dataloader', '_test_dataloader'):
        # For mmengine's own loops, too; the config itself is not changed.
        if isinstance(loader := getattr(runner, name), dict):
            setattr(runner, name, dict(loader, dataset=for_evaluation(loader['dataset'])))
    shield_workers(runner)
    leave_no_handler(runner)
    if warning:
        runner.logger.warning(warning)
    return runner


def _check_packages(node: Node) -> None:
    """Raise an :class:`UnsuitableConfig` if a package is missing that a rollout engine needs."""
    if node.kind.__module__.startswith('mmdpad.'):  # another may load anything when it is built
        try:
            ROLLOUTS.build(node.entry)
        except ImportError as error:
            raise UnsuitableConfig(f'`{node.path}`: {error}') from error


@contextmanager
def _reported_policy_problems() -> Iterator[None]:
    """Turn errors about a policy's folder into an :class:`UnsuitableConfig` within the block."""
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        if not is_about_policy(error):
            raise
        raise UnsuitableConfig('\n'.join(
            f'`model.policy`: {line}' for line in str(error).splitlines())) from error


def keep_seed(config: Config) -> str | None:
    """Set the seed of a run to be resumed to the checkpoint's. The seed determines the order of
    the data, but mmengine restores it only after the data loader is built.

    Returns:
        A warning if the config has another seed.
    """
    path = config.get('load_from')
    if not (config.get('resume') and path and osp.exists(path)):
        return None
    own = (config.get('randomness') or {}).get('seed')
    seed = read_meta(path).get('seed', own)
    config.randomness = dict(config.get('randomness') or {}, seed=seed)
    if own in (None, seed):
        return None
    return (f'--resume: `randomness.seed` stays {seed}, as in the checkpoint, not {own}, as in the '
            f'config, so that the order of the data and the sampling continue unchanged. To use '
            f'another seed, start a new run from these weights with `load_from`')
