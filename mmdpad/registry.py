# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Registries: where a config's ``type='Name'`` is looked up.

Every registry is a child of mmdet's, so with ``default_scope='mmdpad'`` a config finds our
classes, mmdet's and mmengine's without a prefix; configs with another scope, such as mmdet, name
ours ``mmdpad.Name``. ``locations`` lets mmengine import the module that registers a name on
demand.
"""

from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

from mmdet import registry as _mmdet
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.registry import INFERENCERS as INFERENCERS_OF_MMENGINE
from mmengine.registry import STRATEGIES as STRATEGIES_OF_MMENGINE
from mmengine.registry import DefaultScope, Registry


def _root(registry: Registry) -> Registry:
    return registry if registry.parent is None else _root(registry.parent)


def _child(name: str, parent: Registry, *locations: str) -> Registry:
    # A registry searches its ancestors' names but does not import their modules: list them here.
    child = Registry(name, parent=parent, scope='mmdpad',
                     locations=[*parent._locations, *locations])
    # From a scope that is neither mmdet's nor ours, mmengine asks the root for `mmdpad.Name`, and
    # the root only looks at its own children.
    _root(parent).children.setdefault('mmdpad', child)
    return child


MODELS = _child('model', _mmdet.MODELS, 'mmdpad.models')
DATASETS = _child('dataset', _mmdet.DATASETS, 'mmdpad.datasets.registered')
TRANSFORMS = _child('transform', _mmdet.TRANSFORMS, 'mmdpad.datasets.transforms')
DATA_SAMPLERS = _child('data sampler', _mmdet.DATA_SAMPLERS, 'mmdpad.datasets.samplers')
METRICS = _child('metric', _mmdet.METRICS, 'mmdpad.evaluation')
EVALUATOR = _child('evaluator', _mmdet.EVALUATOR, 'mmdpad.evaluation')
HOOKS = _child('hook', _mmdet.HOOKS, 'mmdpad.engine.hooks')
LOOPS = _child('loop', _mmdet.LOOPS, 'mmdpad.engine.runner')
INFERENCERS = _child('inferencer', INFERENCERS_OF_MMENGINE,
                     'mmdpad.apis.reason_seg_inferencer')
STRATEGIES = _child('strategy', STRATEGIES_OF_MMENGINE, 'mmdpad.engine.strategies')
LOG_PROCESSORS = _child('log_processor', _mmdet.LOG_PROCESSORS, 'mmdpad.engine.runner')
VISBACKENDS = _child('vis_backend', _mmdet.VISBACKENDS, 'mmdpad.engine.runner')
# Kinds to which mmdpad adds nothing: a config in our scope finds mmdet's and mmengine's.
RUNNERS = _child('runner', _mmdet.RUNNERS)
RUNNER_CONSTRUCTORS = _child('runner constructor', _mmdet.RUNNER_CONSTRUCTORS)
WEIGHT_INITIALIZERS = _child('weight initializer', _mmdet.WEIGHT_INITIALIZERS)
MODEL_WRAPPERS = _child('model_wrapper', _mmdet.MODEL_WRAPPERS)
OPTIMIZERS = _child('optimizer', _mmdet.OPTIMIZERS)
OPTIM_WRAPPERS = _child('optim_wrapper', _mmdet.OPTIM_WRAPPERS)
OPTIM_WRAPPER_CONSTRUCTORS = _child('optimizer wrapper constructor',
                                    _mmdet.OPTIM_WRAPPER_CONSTRUCTORS)
PARAM_SCHEDULERS = _child('parameter scheduler', _mmdet.PARAM_SCHEDULERS)
TASK_UTILS = _child('task util', _mmdet.TASK_UTILS)
VISUALIZERS = _child('visualizer', _mmdet.VISUALIZERS)
# Kinds that mmdet does not have.
REWARDS = Registry('reward', scope='mmdpad', locations=['mmdpad.rewards'])
ROLLOUTS = Registry('rollout', scope='mmdpad', locations=['mmdpad.models'])
TASKS = Registry('task', scope='mmdpad', locations=['mmdpad.tasks'])


def scope_of(config: Mapping[str, Any], default: str = 'mmengine') -> str:
    """The scope in which a config's names are looked up.

    Args:
        config: A run's config, or a part of one.
        default: The scope if the config names none. A run uses mmengine's, as its runner does; a
            tool that reads parts of our configs ('mmdpad') needs no complete config.
    """
    return config.get('default_scope') or default


def resolve(entry: Mapping[str, Any], registry: Registry, scope: str | None = None) -> Any:
    """Resolve the ``type`` of a config entry to the class or function that a build would call.

    To find out whether an entry is of some kind, call this (or :func:`is_kind`) and never compare
    names: a ``type`` may be a name, a name with a scope (``mmdpad.Name``, ``mmdet.mmdpad.Name``),
    the path of a class (``mmdpad.models.SAMDecoder``), the class itself, or the lazy object that
    MMEngine's pure Python style uses for it.

    Args:
        entry: A dict with a ``type``; its ``_scope_``, which a config inherited by
            ``PACKAGE::NAME`` has, counts as in a build.
        registry: Where the name is looked up.
        scope: The scope around the entry; None for the current default scope.

    Returns:
        None if it cannot be resolved or there is no ``type``.
    """
    kind = entry.get('type')
    if isinstance(kind, (LazyObject, LazyAttr)):
        kind = kind.build()
    if not isinstance(kind, str):
        return kind if callable(kind) else None
    current = DefaultScope.get_current_instance()
    scope = entry.get('_scope_') or scope or (current and current.scope_name)
    try:
        return _in_scope(registry, scope).get(kind)
    except (ImportError, AttributeError, RuntimeError):  # a dotted path to something else
        return None


def is_kind(entry: Mapping[str, Any], kinds: type | tuple[type, ...], registry: Registry,
            scope: str | None = None) -> bool:
    """Whether an entry's ``type`` is one of these classes or a subclass; see :func:`resolve`."""
    found = resolve(entry, registry, scope)
    return isinstance(found, type) and issubclass(found, kinds)


def type_name(entry: Mapping[str, Any]) -> str:
    """The ``type`` of a config entry, as shown in messages."""
    kind = entry.get('type')
    return kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))


def _in_scope(registry: Registry, scope: str | None) -> Registry:
    """The related registry with this scope, or ``registry`` itself if there is none."""
    if scope is None or scope == registry.scope:
        return registry
    with suppress(ImportError, AttributeError):
        import_module(f'{scope}.registry')
    places = [_root(registry)]
    for place in places:
        if place.scope == scope:
            return place
        places += place.children.values()
    return registry
