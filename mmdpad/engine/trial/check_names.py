# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Whether every `type` of a config is known, and takes the arguments that it is given."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from typing import Any

from mmdpad.engine.build import find_wrong_arguments
from mmdpad.engine.config_nodes import Node
from mmdpad.registry import DATA_SAMPLERS, HOOKS, LOOPS, REWARDS, TRANSFORMS
from mmdpad.rewards.composition import build_term

# Entries that mmengine or the composition of rewards takes out before a class is built.
_TAKEN_OUT = {'type', '_scope_', '_delete_', 'priority', 'weight'}
# What a class is given beside its config.
_GIVEN = {'runner', 'dataloader', 'evaluator', 'dataset'}
# Built to see whether their arguments are right: nothing is loaded by that.
_LIGHT = (HOOKS, TRANSFORMS)


def check_node(node: Node) -> Iterator[str]:
    """What is wrong with the type and the arguments of one node."""
    kind = node.kind
    if kind is None:
        yield _unknown_type(node)
    elif getattr(kind, '__module__', '').startswith('mmdpad.'):
        wrong = [*_check_arguments(node, kind), *find_wrong_arguments(node)] if inspect.isclass(
            kind) else []
        yield from wrong
        build = _builder(node, kind)
        if build is not None and not wrong:
            try:
                build(dict(node.entry))
            except (TypeError, ValueError, KeyError) as error:
                yield f'`{node.path}`: {error}'


def _builder(node: Node, kind: Any) -> Any:
    if node.registry in _LIGHT:
        return node.registry.build
    if node.registry is REWARDS and not inspect.isclass(kind):
        return lambda entry: build_term({k: v for k, v in entry.items() if k != 'weight'})
    return None


def _unknown_type(node: Node) -> str:
    places = [node.registry]
    while places[-1].parent is not None:
        places.append(places[-1].parent)
    names = sorted({name for place in places for name in place.module_dict})
    close = difflib.get_close_matches(str(node.entry['type']), names, n=3)
    advice = (f'did you mean {" or ".join(close)}?' if close else
              'import the module that registers it by `custom_imports`, or correct it')
    return (f'`{node.path}.type` should be a registered {node.registry.name}, but got '
            f'{node.entry["type"]!r}; {advice}')


def _check_arguments(node: Node, kind: type) -> Iterator[str]:
    known = _arguments(kind)
    given = node.entry.keys() - _TAKEN_OUT
    if known is not None:
        for name in sorted(given - known):
            close = difflib.get_close_matches(name, sorted(known), n=1)
            advice = f'did you mean `{close[0]}`?' if close else 'correct or remove it'
            yield (f'`{node.path}.{name}`: {kind.__name__} takes no argument {name!r}, but '
                   f'{", ".join(sorted(known - _GIVEN))}; {advice}')
    needed = {name for name, parameter in inspect.signature(kind).parameters.items()
              if parameter.default is parameter.empty
              and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)}
    if node.registry in (LOOPS, DATA_SAMPLERS):
        needed -= _GIVEN
    for name in sorted(needed - given):
        yield f'`{node.path}`: {kind.__name__} needs the argument {name!r}; add it'


def _arguments(kind: type) -> set[str] | None:
    """The arguments of a class and of the bases that it hands the rest to; None for any."""
    names: set[str] = set()
    for base in kind.__mro__:
        if '__init__' not in vars(base) or base is object:
            continue
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]
        names |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names
    return None
