# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Writes out the selectors that a config names in short."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from mmdpad.models.selectors.building import SELECTORS, as_config
from mmdpad.rewards import DiscriminativeReward, list_rewards

_SHARED = ('discriminator', 'region_margin', 'max_region')


def write_out_selectors(config: Mapping[str, Any]) -> None:
    """Replace short names in `model.test_cfg` (``select``, ``abstain_by``) by configs,
    'discrimination' by one with the discriminator of the config's first discriminative term.
    Changes the config.

    Raises:
        ValueError: See :func:`mmdpad.models.selectors.building.as_config`.
    """
    test_cfg = (config.get('model') or {}).get('test_cfg')
    if isinstance(test_cfg, MutableMapping):
        for name in SELECTORS:
            if test_cfg.get(name) is not None:
                test_cfg[name] = as_config(test_cfg[name], f'model.test_cfg.{name}',
                                           own_discriminator(config))


def own_discriminator(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a config's first discriminative term compares with: its discriminators and the limits of
    a region; None without such a term."""
    terms = (part for reward in list_rewards(config) for kind, part in reward.parts
             if isinstance(kind, type) and issubclass(kind, DiscriminativeReward))
    term = next(terms, None)
    return None if term is None else {name: term[name] for name in _SHARED if name in term}
