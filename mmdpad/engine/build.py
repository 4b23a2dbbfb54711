# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The runner that a config asks for."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.runner import FlexibleRunner, Runner

from mmdpad.datasets.reasoning_dataset import for_evaluation
from mmdpad.registry import MODELS

from .stopping import leave_no_handler, shield_workers

STRATEGY = 'mmdpad.FSDP2Strategy'
# mmengine's own default hooks.
OWN_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')


def build_runner(config: Config) -> Runner | FlexibleRunner:
    """mmengine's Runner, or its FlexibleRunner where the config has a ``strategy``. A default hook
    that is None is left out.

    Raises:
        ValueError: A strategy that our loops do not run under.
    """
    if problem := find_wrong_strategy(config):
        raise ValueError(problem)
    # mmengine knows how to leave out a hook of its own, and asserts at None for another.
    hooks = config.get('default_hooks') or {}
    for name in [name for name, hook in hooks.items() if hook is None and name not in OWN_HOOKS]:
        del hooks[name]
    if config.get('strategy') is None:
        runner = Runner.from_cfg(config)
    else:
        runner = FlexibleRunner.from_cfg(config)
        # It would build the model after the loops, which look at it.
        runner.model = MODELS.build(runner.model)
    for name in ('_val_dataloader', '_test_dataloader'):
        # Of mmengine's own loops, too; the config itself stays as it is.
        if isinstance(loader := getattr(runner, name), dict):
            setattr(runner, name, dict(loader, dataset=for_evaluation(loader['dataset'])))
    shield_workers(runner)
    leave_no_handler(runner)
    return runner


def find_wrong_strategy(config: Config) -> str | None:
    """What is wrong with a config's ``strategy``, with the remedy; None if nothing is."""
    strategy = config.get('strategy')
    if strategy is None or strategy.get('type') == STRATEGY:
        return None
    return (f'`strategy.type` should be {STRATEGY!r}, but got {strategy.get("type")!r}: '
            f'`GRPOTrainLoop` accumulates gradients itself, which the optimizer wrappers of '
            f"mmengine's other strategies (DeepSpeed, ColossalAI) cannot. Leave `strategy` out "
            f'for plain data parallel training')
