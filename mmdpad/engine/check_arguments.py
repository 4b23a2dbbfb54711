# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks that every `type` in a config is known and accepts its arguments."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mmdet.evaluation import CocoMetric
from mmdet.evaluation import RefSegMetric as RefSegMetricOfMMDet
from mmengine.dataset import BaseDataset
from mmengine.registry import FUNCTIONS
from mmengine.runner import Priority, get_priority
from torch import nn

from mmdpad.models import BoxScorer
from mmdpad.registry import (
    DATA_SAMPLERS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    REWARDS,
    ROLLOUTS,
    TASKS,
    TRANSFORMS,
    VISBACKENDS,
)
from mmdpad.rewards import Place, build_term
from mmdpad.rl import PolicyLoss
from mmdpad.utils import renamed
from mmdpad.utils.argument_types import find_wrong_types

from .check_settings import find_wrong_settings
from .config_nodes import Node
from .refusals import REFUSALS, describe_refusal, unknown_keys
from .signatures import GIVEN, TAKEN_OUT, known_arguments, missing_arguments

# Built to check their arguments, since building them loads nothing.
_LIGHT = (HOOKS, TRANSFORMS, METRICS, ROLLOUTS, TASKS)
_LIGHT_METRICS_OF_MMDET = (CocoMetric, RefSegMetricOfMMDet)
_OURS = 'mmdpad.'
# Packages with correct annotations, except for `_MISANNOTATED`; elsewhere in mmdet, annotations
# contradict mmdet's own configs.
_ANNOTATED = (_OURS, 'mmengine.', 'torch.optim.', 'mmdet.visualization.')
_ANNOTATED_DATASETS = (*_ANNOTATED, 'mmdet.datasets.')
_MISANNOTATED = {'AmpOptimWrapper': ('loss_scale', ), 'DetLocalVisualizer': ('vis_backends', )}
_BASE_DATASET = set(inspect.signature(BaseDataset).parameters)


def check_node(node: Node, wrong_arguments: Sequence[str]) -> Iterator[str]:
    """Yield the problems with the type and the arguments of one node.

    Args:
        node: The node.
        wrong_arguments: The result of :func:`find_wrong_arguments`, which is included.
    """
    kind = node.kind
    if kind is None:
        yield _unknown_type(node)
        return
    module = getattr(kind, '__module__', '') or ''
    wrong = list(wrong_arguments)
    scope = node.entry.get('_scope_')
    if not isinstance(scope, str | None):
        wrong.append(f'`{node.path}._scope_` should be the scope of a registry, such as '
                     f"'mmdet', but got {scope!r}; correct it")
    if _is_annotated(node):
        wrong = [*_check_names(node, kind), *wrong]
    elif node.registry is FUNCTIONS and inspect.isfunction(kind):
        wrong = [*unknown_keys(node.entry.keys() - TAKEN_OUT, inspect.signature(kind).parameters,
                               node.path, kind.__name__)]
    if node.registry is REWARDS:
        def placed(weight: float = 1.0, tasks: Sequence[str] | None = None) -> None: ...

        wrong += find_wrong_types(placed, node.entry, node.path)
    if node.registry is HOOKS and 'priority' in node.entry:
        try:
            get_priority(node.entry['priority'])
        except REFUSALS:
            wrong.append(f'`{node.path}.priority` should be an int in [0, 100] or one of '
                         f'{", ".join(Priority.__members__)}, but got '
                         f'{node.entry["priority"]!r}; correct it')
    if hasattr(kind, 'as_term') and not module.startswith(_OURS):
        # A custom hook may load anything when it is built, so its term is checked instead.
        term = Node(node.path, kind.as_term(node.entry)[1], REWARDS, node.scope)
        wrong += check_node(term, list(find_wrong_arguments(term)))
    yield from wrong
    build = _builder(node, kind, module)
    if build is not None and not wrong:
        try:
            made = build(node.entry)
        except ImportError:  # a missing package is reported elsewhere
            pass
        except (*REFUSALS, RuntimeError) as error:
            yield describe_refusal(node.path, node.entry, error)
        else:
            if inspect.isclass(kind) and not module.startswith(_OURS) and (
                    known_arguments(kind) is None):
                yield from _check_passed_on(made, node)


def find_wrong_arguments(node: Node) -> Iterator[str]:
    """Yield the problems with the types of a class's arguments, and with arguments that configure
    something else."""
    kind = node.kind
    if _is_annotated(node):
        given = {name: value for name, value in node.entry.items()
                 if name not in _MISANNOTATED.get(kind.__name__, ())}
        wrong = list(find_wrong_types(kind, given, node.path))
    elif inspect.isclass(kind) and issubclass(kind, BaseDataset):
        # Data sets of other packages hand these on to mmengine, whose annotations are correct.
        wrong = list(find_wrong_types(BaseDataset, {
            name: value for name, value in node.entry.items() if name in _BASE_DATASET}, node.path))
    else:
        return
    yield from wrong
    if not wrong:
        yield from find_wrong_settings(kind, node.entry, node.path)


def _is_annotated(node: Node) -> bool:
    if not inspect.isclass(node.kind):
        return False
    # Other packages' models add and remove arguments of their parts before building them.
    known = (_OURS, ) if node.registry is MODELS else (
        _ANNOTATED_DATASETS if node.is_kind(BaseDataset) else _ANNOTATED)
    return node.kind.__module__.startswith(known)


def _builder(node: Node, kind: Any, module: str) -> Callable[[dict], Any] | None:
    def construct(entry: Mapping[str, Any]) -> Any:
        return kind(**{k: v for k, v in entry.items() if k not in ('type', '_scope_', 'priority')})

    if inspect.isclass(kind) and issubclass(kind, BoxScorer):
        return construct  # its calibration belongs to its discriminator
    if inspect.isclass(kind) and (issubclass(kind, PolicyLoss) or node.registry in _LIGHT and (
            module.startswith((_OURS, 'mmengine.'))
            or issubclass(kind, _LIGHT_METRICS_OF_MMDET))):
        return lambda entry: construct(_without_files(entry))
    if node.registry is REWARDS and module.startswith(_OURS):
        return lambda entry: build_term(Place.of(_without_files(entry)).term)
    return None


def _check_passed_on(made: Any, node: Node) -> Iterator[str]:
    """Check the arguments that a class keeps in the config of another class, which it builds only
    after the run has started, as ``EMAHook`` does."""
    own = inspect.signature(node.kind).parameters
    given = {name: value for name, value in node.entry.items()
             if name not in own and name not in TAKEN_OUT}
    for config in vars(made).values():
        if not (isinstance(config, Mapping) and {'type', *given} <= config.keys()):
            continue
        key = next((name for name, one in own.items()
                    if node.entry.get(name, one.default) == config['type']), 'type')
        inner = Node(node.path, dict(config), MODELS, node.scope)
        if inner.kind is None:
            yield _unknown_type(inner, key)
            continue
        if (known := known_arguments(inner.kind)) is not None:
            known = (known | own.keys()) - {'kwargs', 'model'}
            wrong = [*unknown_keys(given, known, node.path, node.kind.__name__)]
            wrong += find_wrong_types(inner.kind, given, node.path)
            yield from wrong
            if not wrong and missing_arguments(inner.kind, given) == ['model']:
                try:
                    inner.kind(nn.Linear(1, 1), **given)
                except REFUSALS as error:
                    yield describe_refusal(node.path, node.entry, error)


def _without_files(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry without annotation files and discriminators, which are checked separately."""
    made: dict[str, Any] = {}
    for key, value in entry.items():
        if key == 'discriminator' and value:
            value = dict(type='torch.nn.Identity')
        elif isinstance(value, Mapping):
            value = _without_files(value)
        if key != 'ann_file':
            made[key] = value
    return made


def _unknown_type(node: Node, key: str = 'type') -> str:
    name = node.entry['type']
    if not isinstance(name, str):
        return (f'`{node.path}.{key}` should be the name of a registered {node.registry.name}, but '
                f'got {name!r}; correct it')
    places = [node.registry]
    while places[-1].parent is not None:
        places.append(places[-1].parent)
    names = sorted({name for place in places for name in place.module_dict})
    # If the name is registered anyway, it is ours, and the config has another scope.
    close = [f'mmdpad.{name}'] if name in names else difflib.get_close_matches(name, names, n=3)
    advice = renamed.advice('type', name) or (
        f'did you mean {" or ".join(close)}?' if close else
        'import the module that registers it with `custom_imports`, or correct it')
    return (f'`{node.path}.{key}` should be a registered {node.registry.name}, but got {name!r}; '
            f'{advice}')


def _check_names(node: Node, kind: type) -> Iterator[str]:
    """Yield the unknown and the missing arguments of a class."""
    known = known_arguments(kind)
    given = node.entry.keys() - TAKEN_OUT - ({'tasks'} if node.registry is REWARDS else set())
    if known is not None:
        yield from unknown_keys(given, known, node.path, kind.__name__)
    if not kind.__module__.startswith(_OURS):
        return  # mmengine passes further arguments to its own classes
    extra = GIVEN if node.registry in (LOOPS, DATA_SAMPLERS, VISBACKENDS) else ()
    for name in missing_arguments(kind, {*given, *extra}):
        yield f'`{node.path}`: {kind.__name__} needs the argument {name!r}; add it'
