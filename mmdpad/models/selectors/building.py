# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Builds selectors from names and configs."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from mmdpad.registry import MODELS, is_kind, resolve, type_name
from mmdpad.tasks import Task

from .selector import Selector

SHORT_NAMES: dict[str, dict[str, Any]] = dict(
    discrimination=dict(type='DiscriminationSelector',
                        discriminator=dict(type='CLIPDiscriminator')),
    decoder_score=dict(type='DecoderScoreSelector'), likelihood=dict(type='LikelihoodSelector'),
    consensus=dict(type='ConsensusSelector'), oracle=dict(type='OracleSelector'))
"""Short name -> config. Commands and inferencers put the discriminator of the config's own reward
in place of the paper's CLIP."""
SELECTORS = ('select', 'abstain_by')
"""Keys of `model.test_cfg` that name a selector: one chooses, the other's value of what was chosen
says whether to abstain."""


def as_config(select: Any, path: str = 'test_cfg.select',
              discriminator: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The config of a selector, without short names.

    >>> as_config('consensus')
    {'type': 'ConsensusSelector'}

    Args:
        select: A short name, a config, or a list of (weight, short name or config) for a
            :class:`WeightedSelector`.
        path: Where it is in the config, for the message.
        discriminator: Arguments of the class that 'discrimination' stands for, in place of the
            default.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(select, str) and select in SHORT_NAMES:
        config = copy.deepcopy(SHORT_NAMES[select])
        return config | dict(discriminator) if discriminator and 'discriminator' in config else (
            config)
    if isinstance(select, list | tuple):
        select = dict(type='WeightedSelector', selectors=_by_name(select, path))
    if not isinstance(select, Mapping) or 'type' not in select:
        raise ValueError(
            f'`{path}` should be one of {(*SHORT_NAMES, )}, the config of a selector, or a list of '
            f"different ones with their weights, such as [(5.0, 'discrimination'), "
            f"(1.0, 'consensus')], but got {select!r}; set one of these")
    if 'selectors' in select:
        return dict(select, selectors={
            name: (weight, as_config(part, f'{path}.selectors.{name}', discriminator))
            for name, (weight, part) in pairs_of(select['selectors'], path).items()})
    return dict(select)


def pairs_of(selectors: Any, path: str) -> dict[str, tuple[Any, Any]]:
    """Name -> (weight, config) of the parts of a weighted sum; a weight alone is that of the short
    name.

    Raises:
        ValueError: It is no dict, or an entry is neither.
    """
    if not isinstance(selectors, Mapping):
        raise ValueError(f'`{path}.selectors` should be a dict, name -> weight or name -> (weight, '
                         f'config), but got {selectors!r}; for example '
                         f'dict(discrimination=5.0, consensus=1.0)')
    found = {}
    for name, entry in selectors.items():
        pair = (entry, name) if isinstance(entry, Real) else entry
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f'`{path}.selectors.{name}` should be a weight, or a weight and a '
                             f'config, but got {entry!r}; correct it')
        found[name] = tuple(pair)
    return found


def _by_name(select: Any, path: str) -> dict[str, Any]:
    """The parts of a weighted sum by the short names of their classes, numbered if there are
    several of a class."""
    names = {config['type']: name for name, config in SHORT_NAMES.items()}
    found: dict[str, Any] = {}
    for number, entry in enumerate(select):
        weight, config = pairs_of({str(number): entry}, path)[str(number)]
        name = config if isinstance(config, str) else names.get(
            config.get('type') if isinstance(config, Mapping) else None, 'selector')
        found[f'{name}_{number}' if name in found else name] = (weight, config)
    return found


def build_selector(select: Any, path: str = 'test_cfg.select') -> Selector:
    """Build a selector, see :func:`as_config`.

    Raises:
        ValueError: The config names no selector, or has arguments that it does not take, or see
            :func:`as_config` and the class.
    """
    config = as_config(select, path)
    if not is_kind(config, Selector, MODELS):
        raise ValueError(f'`{path}.type` should be ConsensusSelector or another subclass of '
                         f'Selector, but got {type_name(config)!r}; use such a class')
    given = {name: value for name, value in config.items() if name not in ('type', '_scope_')}
    try:
        inspect.signature(resolve(config, MODELS)).bind(**given)
    except TypeError as error:
        raise ValueError(f'`{path}` should have the arguments of {type_name(config)}, but got '
                         f'{sorted(given)}: {error}; correct them') from error
    selector = MODELS.build(config)
    selector.config = config
    return selector


def build_selectors(test_cfg: Mapping[str, Any], tasks: Mapping[str, Task]) -> dict[str, Selector]:
    """Build the selectors of a `test_cfg`, by those of :data:`SELECTORS` that are set.

    Raises:
        ValueError: One cannot be built or cannot serve these tasks, or see :func:`distinct_parts`.
    """
    found = {key: build_selector(test_cfg[key], f'test_cfg.{key}') for key in SELECTORS
             if test_cfg.get(key) is not None}
    for selector in found.values():
        selector.check_tasks(tasks)
    distinct_parts(found.values())
    return found


def distinct_parts(selectors: Iterable[Selector]) -> list[Selector]:
    """The parts of some selectors, of which equal ones are measured once.

    Raises:
        ValueError: Parts of the same name differ.
    """
    found: dict[str, Selector] = {}
    for part in (part for selector in selectors for part in selector.parts):
        if found.setdefault(part.name, part).config != part.config:
            raise ValueError(
                f'The selectors in `test_cfg.select` and `test_cfg.abstain_by` that are named '
                f'{part.name!r} should be equal, but got {found[part.name].config} and '
                f'{part.config}; correct one, or name one otherwise, as in '
                f"`dict(type='WeightedSelector', selectors=dict(NAME=(1.0, dict(type=...)), ...))`")
    return [*found.values()]
