# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""All reward terms that a config names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmdpad.registry import HOOKS, REWARDS, resolve


@dataclass(frozen=True)
class ListedReward:
    """A reward term of a config.

    Attributes:
        name: Of the term.
        path: Dotted keys that lead to ``entry``.
        entry: The config's entry: a term, or a hook that adds one.
        config: The term as it would appear in ``train_cfg.rewards``, with its ``weight``
            and ``tasks``.
        scope: Of the config's names; None for the current default scope.
    """

    name: str
    path: str
    entry: Mapping[str, Any]
    config: Mapping[str, Any]
    scope: str | None = None

    @property
    def is_hook(self) -> bool:
        """Whether a hook adds it."""
        return self.entry is not self.config

    @property
    def tasks(self) -> Any:
        """The tasks whose prompts it scores, as the config names them; None for all."""
        return self.config.get('tasks')

    @property
    def parts(self) -> list[tuple[Any, Mapping[str, Any]]]:
        """Class (or function) and config of the term and of the terms nested in it."""
        return list(_parts(self.config, self.scope))

    def needs(self, what: str) -> bool:
        """Whether the term, or one nested in it, has ``needs_<what>`` ('model', 'decoder',
        'conversation')."""
        return any(getattr(kind, f'needs_{what}', False) for kind, _ in self.parts)


def list_rewards(config: Mapping[str, Any]) -> list[ListedReward]:
    """The reward terms of a config: those of ``train_cfg.rewards``, then those of hooks.

    A hook adds a term if its class has ``as_term``, as every :class:`RewardHook` does. Entries that
    are not a dict with a registered ``type`` are left to the config checks.

    Args:
        config: Of a run; may be incomplete.
    """
    scope = config.get('default_scope')
    found = []
    rewards = (config.get('train_cfg') or {}).get('rewards')
    for name, entry in rewards.items() if isinstance(rewards, Mapping) else ():
        if isinstance(entry, Mapping):
            found.append(ListedReward(name, f'train_cfg.rewards.{name}', entry, entry, scope))
    for path, entry in _hooks(config):
        if isinstance(entry, Mapping) and hasattr(kind := resolve(entry, HOOKS, scope), 'as_term'):
            name, term = kind.as_term(entry)
            found.append(ListedReward(name, path, entry, term, scope))
    return found


def _hooks(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the paths and entries of hooks, in the order in which mmengine registers them."""
    default = config.get('default_hooks')
    for name, entry in default.items() if isinstance(default, Mapping) else ():
        yield f'default_hooks.{name}', entry
    for number, entry in enumerate(config.get('custom_hooks') or ()):
        yield f'custom_hooks.{number}', entry


def _parts(config: Mapping[str, Any],
           scope: str | None) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    kind = resolve(config, REWARDS, scope)
    if kind is not None:
        yield kind, config
    for value in config.values():
        for inner in value if isinstance(value, (list, tuple)) else (value, ):
            if isinstance(inner, Mapping):
                yield from _parts(inner, config.get('_scope_') or scope)
