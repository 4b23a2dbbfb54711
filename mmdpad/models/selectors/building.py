# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Builds selectors from names and configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdpad.registry import MODELS

from .selector import Selector

SHORT_NAMES = dict(
    discrimination='DiscriminationSelector', decoder_score='DecoderScoreSelector',
    likelihood='LikelihoodSelector', consensus='ConsensusSelector', oracle='OracleSelector')
"""Short name -> class, which is then built with its default arguments."""


def as_config(select: Any, path: str = 'model.test_cfg.select') -> dict[str, Any]:
    """The config of a selector.

    >>> as_config('consensus')
    {'type': 'ConsensusSelector'}

    Args:
        select: A short name, a config, or a list of (weight, short name or config) for a
            :class:`WeightedSelector`.
        path: Where it is in the config, for the message.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(select, str) and select in SHORT_NAMES:
        return dict(type=SHORT_NAMES[select])
    if isinstance(select, Mapping) and 'type' in select:
        return dict(select)
    if isinstance(select, list | tuple) and select and all(
            isinstance(entry, list | tuple) and len(entry) == 2 for entry in select):
        named = {_name_of(config, number): (weight, config)
                 for number, (weight, config) in enumerate(select)}
        if len(named) == len(select):
            return dict(type='WeightedSelector', selectors=named)
    raise ValueError(
        f'`{path}` should be one of {(*SHORT_NAMES, )}, the config of a selector, or a list of '
        f'different ones with their weights, such as [(5.0, \'discrimination\'), '
        f"(1.0, 'consensus')], but got {select!r}; set one of these")


def _name_of(config: Any, number: int) -> str:
    """The name of a part of a weighted sum."""
    if isinstance(config, str):
        return config
    kind = config.get('type') if isinstance(config, Mapping) else None
    return next((name for name, own in SHORT_NAMES.items() if own == kind), f'part_{number}')


def build_selector(select: Any, path: str = 'model.test_cfg.select') -> Selector:
    """Build a selector, see :func:`as_config`.

    Raises:
        ValueError: The config names another kind of model, or see :func:`as_config` and the class.
    """
    selector = MODELS.build(as_config(select, path))
    if not isinstance(selector, Selector):
        raise ValueError(not_a_selector(path, type(selector)))
    return selector


def not_a_selector(path: str, kind: type) -> str:
    """The problem with a model of another kind, as a message."""
    return (f'`{path}.type` should be ConsensusSelector or another subclass of Selector, but got '
            f'{kind.__name__}; use such a class')
