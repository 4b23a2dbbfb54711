# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks the values of a config before anything is built or read from files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmdpad.evaluation.readable import find_unreadable
from mmdpad.models import VLMReasoningHead
from mmdpad.models.precision import find_untrainable, find_wrong_dtype
from mmdpad.registry import STRATEGIES, is_kind, scope_of, type_name

from .check_arguments import check_node, find_wrong_arguments
from .check_effect import find_old_names, find_stuck_schedules, find_unknown_switches
from .check_optimizer import check_optimizer
from .check_sections import check_sections
from .check_shape import check_entries, check_shape
from .check_together import find_clashes, find_misspelled_entries
from .config_nodes import Node, find_nodes
from .flags import find_wrong_scaling

STRATEGY = 'mmdpad.FSDP2Strategy'


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
    found = Findings(list(check_entries(part)) or list(check_shape(part, '')))
    found.problems += find_misspelled_entries(config)
    found.readable = not found.problems
    found.problems += [*find_old_names(part), *find_unknown_switches(config)]
    if not found.readable:
        return found
    with DefaultScope.overwrite_default_scope(scope_of(config)):
        wrong = list(check_sections(part))
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
                found.problems += check_optimizer(config)
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


def _check_trainable(policy: Node | None) -> Iterator[str]:
    if policy is not None and (problem := find_untrainable(policy.entry, policy.path)):
        yield problem
