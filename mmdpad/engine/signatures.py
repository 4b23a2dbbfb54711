# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Which arguments a class takes, and which it needs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

# Keys that mmengine or the reward composition removes before a class is built.
TAKEN_OUT = {'type', '_scope_', 'priority', 'weight', 'optimizer', 'constructor',
              'paramwise_cfg', 'convert_to_iter_based'}
# Arguments passed to a class in addition to its config.
GIVEN = {'runner', 'dataloader', 'evaluator', 'dataset', 'save_dir'}


def missing_arguments(kind: type, given: Iterable[str]) -> list[str]:
    """The required arguments of a class of ours that are not given."""
    needed = {name for name, parameter in inspect.signature(kind).parameters.items()
              if parameter.default is parameter.empty
              and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)}
    return sorted(needed.difference(given))


def known_arguments(kind: type) -> set[str] | None:
    """The arguments of a class and of what it passes ``**kwargs`` to; None if it accepts any."""
    names: set[str] = set()
    bases = [base for base in kind.__mro__ if '__init__' in vars(base) and base is not object]
    for base in bases:
        parameters = list(inspect.signature(vars(base)['__init__']).parameters.values())[1:]
        names |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names
    if issubclass(kind, CheckpointHook):
        return names | inspect.signature(Runner.save_checkpoint).parameters.keys() - {
            'self', 'out_dir', 'filename'}
    return None if bases else names
