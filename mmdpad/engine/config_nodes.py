# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Finds everything in a config that names a registered class, and its path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmengine.registry import FUNCTIONS, Registry

from mmdpad import registry

# The registry for a key's `type`, and for everything below it up to another of these keys.
_BY_KEY: dict[str, Registry] = dict(
    model=registry.MODELS, discriminator=registry.MODELS, dataset=registry.DATASETS,
    datasets=registry.DATASETS, pipeline=registry.TRANSFORMS, sampler=registry.DATA_SAMPLERS,
    batch_sampler=registry.DATA_SAMPLERS, collate_fn=FUNCTIONS,
    worker_init_fn=FUNCTIONS, val_evaluator=registry.METRICS, test_evaluator=registry.METRICS,
    custom_hooks=registry.HOOKS, default_hooks=registry.HOOKS, train_cfg=registry.LOOPS,
    val_cfg=registry.LOOPS, test_cfg=registry.LOOPS, rewards=registry.REWARDS,
    tasks=registry.TASKS, rollout_engine=registry.ROLLOUTS, optim_wrapper=registry.OPTIM_WRAPPERS,
    optimizer=registry.OPTIMIZERS, param_scheduler=registry.PARAM_SCHEDULERS,
    log_processor=registry.LOG_PROCESSORS, visualizer=registry.VISUALIZERS,
    vis_backends=registry.VISBACKENDS, model_wrapper_cfg=registry.MODEL_WRAPPERS,
    strategy=registry.STRATEGIES, init_cfg=registry.WEIGHT_INITIALIZERS)
REGISTRIES = (*{id(r): r for r in (*_BY_KEY.values(), registry.TASK_UTILS, registry.EVALUATOR,
                                   registry.RUNNERS, registry.OPTIM_WRAPPER_CONSTRUCTORS)
                }.values(), )
# Entries whose `type` names a function, which the code that uses it looks up itself.
_FUNCTIONS_BY_NAME = ('.nms', '.nms_cfg', '.roi_layer')
# Entries that mmengine's runner reads; others are variables of the config's author.
_READ_BY_RUNNER = frozenset((
    'model', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg', 'val_cfg',
    'test_cfg', 'auto_scale_lr', 'optim_wrapper', 'param_scheduler', 'val_evaluator',
    'test_evaluator', 'default_hooks', 'custom_hooks', 'data_preprocessor', 'log_processor',
    'visualizer', 'model_wrapper_cfg', 'strategy'))


@dataclass(frozen=True)
class Node:
    """A dict with a ``type`` in a config.

    Attributes:
        path: Keys and indices joined by dots, as in ``--cfg-options``.
        entry: The dict itself; changing it changes the config, but not the ``kind`` of this node.
        registry: The registry in which its kind is looked up first.
        scope: The ``_scope_`` around it; None for the default scope.
    """

    path: str
    entry: dict
    registry: Registry
    scope: str | None = None

    @cached_property
    def kind(self) -> Any:
        """The class or function that its ``type`` names; None if there is none."""
        # The registry of its key comes first, since a name may be in several.
        return next((found for place in (self.registry, *REGISTRIES)
                     if (found := registry.resolve(self.entry, place, self.scope)) is not None),
                    None)

    def is_kind(self, kinds: type | tuple[type, ...]) -> bool:
        """Whether its ``type`` names one of these classes or a subclass."""
        return isinstance(self.kind, type) and issubclass(self.kind, kinds)


def find_nodes(config: Mapping[str, Any]) -> Iterator[Node]:
    """Yield the nodes of a config that a run reads, outer nodes before inner ones."""
    for key, value in config.items():
        if key in _READ_BY_RUNNER:
            yield from _walk(value, key, _BY_KEY.get(key, registry.RUNNERS))


def _walk(value: Any, path: str, where: Registry, scope: str | None = None) -> Iterator[Node]:
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _walk(item, f'{path}.{number}', where, scope)
    elif isinstance(value, dict):
        if 'type' in value and not path.endswith(_FUNCTIONS_BY_NAME):
            yield Node(path, value, where, scope)
        scope = value.get('_scope_') or scope
        for key, item in value.items():
            inner = where
            if where is not registry.MODELS or key in ('discriminator', 'rollout_engine',
                                                       'init_cfg', 'tasks'):
                # Within a model, `train_cfg`, `sampler` and the like belong to the model.
                inner = _BY_KEY.get(key, where)
            yield from _walk(item, f'{path}.{key}', inner, scope)
