# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Named reward terms and their weighted sum."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from mmdpad.registry import REWARDS, resolve, type_name
from mmdpad.structures import RolloutBatch

TOTAL = 'total'
"""What the weighted sum is called beside the terms."""


def build_term(config: dict[str, Any]) -> Callable[[RolloutBatch], Tensor]:
    """A reward term from its config, see :class:`RewardComposition`.

    Raises:
        KeyError: No term of this ``type`` is registered.
        TypeError: Arguments that the term does not take, or lacks.
    """
    function = resolve(config, REWARDS)
    if not inspect.isfunction(function):
        return REWARDS.build(config)
    arguments = {key: value for key, value in config.items() if key not in ('type', '_scope_')}
    try:
        inspect.signature(function).bind(None, **arguments)
    except TypeError as error:
        raise TypeError(f'Reward term {type_name(config)!r} should take a rollout and the '
                        f'arguments {sorted(arguments)} of the config, but: {error}') from error
    return partial(function, **arguments)


def write_term(rollout: RolloutBatch, name: str, term: Callable[[RolloutBatch], Tensor]) -> None:
    """Compute a term and write it into ``rollout.rewards``.

    A signal that another term wrote before under the same name stays, and this term's is called
    ``<name>_<signal>``: of two discriminative terms the second one, 'domain', writes
    'domain_s_margin'.
    """
    before = dict(rollout.signals)
    rollout.rewards[name] = term(rollout)
    for signal, values in before.items():
        own = rollout.signals.get(signal, values)
        if own is not values:
            rollout.signals[f'{name}_{signal}'] = own
            rollout.signals[signal] = values


class RewardComposition:
    """The terms of a config and the sum R = sum_k weight_k * term_k.

    Rule terms are computed by :meth:`score`. A term that needs a model is written into
    ``rollout.rewards`` by whoever owns the model, usually a hook, which announces it by
    :meth:`expect`; so a hook that was mounted but did not run is an error, never a missing term.

    Args:
        terms: Name -> config of a registered reward term, with an optional ``weight`` (1.0).
            A term is a callable ``term(rollout) -> (B, G)`` float tensor: an object of a registered
            class, or a registered function ``term(rollout, **rest of the config)``.

    Example:
        >>> composition = RewardComposition(dict(
        ...     format=dict(type='ThinkingFormatReward'),
        ...     box_iou=dict(type='BoxIoUReward', threshold=0.5, weight=2.0)))
        >>> sorted(composition.weights.items())
        [('box_iou', 2.0), ('format', 1.0)]
    """

    def __init__(self, terms: dict[str, dict[str, Any]]) -> None:
        self.terms: dict[str, Any] = {}
        self.weights: dict[str, float] = {}
        for name, config in terms.items():
            config = dict(config)
            self.expect(name, config.pop('weight', 1.0))
            self.terms[name] = build_term(config)

    def expect(self, name: str, weight: float = 1.0) -> None:
        """Announce a term that somebody else writes into ``rollout.rewards``.

        Raises:
            ValueError: A term of this name is there already, or the name cannot be one.
        """
        if not isinstance(name, str) or name in ('', TOTAL):
            raise ValueError(f'The `name` of a reward term should be a text other than {TOTAL!r}, '
                             f'which is what logs call the sum, but got {name!r}')
        if name in self.weights:
            raise ValueError(f'Reward terms should have different names, but {name!r} is there '
                             f'already (terms: {list(self.weights)}); give one of the hooks in '
                             f"`custom_hooks` another one, as name='{name}_2', or rename the term "
                             f'in `train_cfg.rewards`')
        self.weights[name] = float(weight)

    def score(self, rollout: RolloutBatch) -> None:
        """Write every rule term into ``rollout.rewards``.

        Raises:
            RuntimeError: A term raised something; the message names it.
        """
        for name, term in self.terms.items():
            try:
                write_term(rollout, name, term)
            except Exception as error:
                raise RuntimeError(f'Reward term {name!r} should give each response a number, but '
                                   f'raised {type(error).__name__}: {error}') from error

    def total(self, rollout: RolloutBatch) -> Tensor:
        """The weighted sum, (B, G).

        Raises:
            RuntimeError: A configured term was not written, or was written by nobody announced.
            ValueError: A term has a wrong shape or a value that is not finite.
        """
        missing = self.weights.keys() - rollout.rewards.keys()
        unknown = rollout.rewards.keys() - self.weights.keys()
        if missing or unknown:
            raise RuntimeError(
                f'Each announced reward term should be written once per rollout, but '
                f'missing: {sorted(missing)}, unannounced: {sorted(unknown)}. A hook writes its '
                f'term in `after_rollout(self, runner, rollout)` (a misspelt method is never '
                f'called) and announces it by `runner.train_loop.composition.expect(name)`')
        shape = (rollout.num_prompts, rollout.group_size)
        for name, values in rollout.rewards.items():
            if tuple(values.shape) != shape or not values.isfinite().all():
                raise ValueError(f'Reward term {name!r} should be finite and of shape (prompts, '
                                 f'responses) = {shape}, but got shape {tuple(values.shape)}: '
                                 f'{values}')
        # float64, so that batches and their parts give one sum
        return sum(weight * rollout.rewards[name].double().cpu()  # type: ignore[return-value]
                   for name, weight in self.weights.items())

    def state_dict(self) -> dict[str, Any]:
        """Plain data of the terms that remember something (those with a ``state_dict``)."""
        return {name: term.state_dict() for name, term in self.terms.items()
                if hasattr(term, 'state_dict')}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave; terms that are new start afresh."""
        for name in state.keys() & self.terms.keys():
            self.terms[name].load_state_dict(state[name])
