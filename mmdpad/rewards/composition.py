# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Named reward terms and their weighted sum."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmdpad.registry import REWARDS, resolve, type_name
from mmdpad.structures import RolloutBatch

TOTAL = 'total'
"""Name of the weighted sum, next to the names of the terms."""

Term = Callable[[RolloutBatch], Tensor]


def build_term(config: dict[str, Any]) -> Term:
    """Build a reward term from its config, see :class:`RewardComposition`.

    Raises:
        KeyError: No term of this ``type`` is registered.
        TypeError: The config has arguments that the term does not take, or lacks one.
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


def prepare_term(term: Term, model: Any, dataset: Any) -> None:
    """Call a term's ``prepare``, if it has one; see :meth:`RewardComposition.prepare`."""
    if hasattr(term, 'prepare'):
        term.prepare(model, dataset)


def write_term(rollout: RolloutBatch, name: str, term: Term) -> None:
    """Compute a term and write it into ``rollout.rewards``.

    If another term already wrote a signal of the same name, that signal stays and this term's is
    stored as ``<name>_<signal>``: with two discriminative terms, the second of which is called
    'domain', the second one's margin is 'domain_s_margin'.
    """
    before = dict(rollout.signals)
    rollout.rewards[name] = term(rollout)
    for signal, values in before.items():
        own = rollout.signals.get(signal, values)
        if own is not values:
            rollout.signals[f'{name}_{signal}'] = own
            rollout.signals[signal] = values


def check_name(name: Any, taken: Iterable[str]) -> None:
    """Refuse a name that a new term cannot have.

    Raises:
        ValueError: The name is not valid, or is taken.
    """
    if not isinstance(name, str) or name in ('', TOTAL):
        raise ValueError(f'The `name` of a reward term should be a non-empty string other than '
                         f'{TOTAL!r}, which logs use for the sum, but got {name!r}')
    if name in taken:
        raise ValueError(f'Reward terms should have different names, but {name!r} is taken '
                         f'(terms: {list(taken)}); rename one of the hooks in `custom_hooks`, '
                         f"for example to name='{name}_2', or rename the term in "
                         f'`train_cfg.rewards`')


def check_weight(name: str, weight: Any) -> None:
    """Refuse a weight that is not a finite number.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(weight, (int, float)) or not math.isfinite(weight):
        raise ValueError(f'The `weight` of the reward term {name!r} should be a finite number, but '
                         f'got {weight!r}; correct it')


class RewardComposition:
    """The terms of a run and the sum R = sum_k weight_k * term_k.

    A term is a callable ``term(rollout) -> (B, G)`` float tensor: an object of a registered class,
    or a registered function ``term(rollout, **rest of the config)``. An object may also have:

    - ``prepare(model, dataset)``, called once before anything is scored. It hands the term what a
      config does not hold, and the term raises there if it cannot score them. See :meth:`prepare`.
    - ``state_dict()`` and ``load_state_dict(state)``, plain data that a resumed run restores.

    Its class sets ``needs_model = True`` if the term runs a network and cannot work from the texts
    alone, and ``needs_decoder = True`` if that network is the decoder of the trained model.

    Args:
        terms: Name -> config of a registered term, with an optional ``weight`` (1.0).

    Example:
        >>> composition = RewardComposition(dict(
        ...     format=dict(type='ThinkingFormatReward'),
        ...     box_iou=dict(type='BoxIoUReward', threshold=0.5, weight=2.0)))
        >>> sorted(composition.weights.items())
        [('box_iou', 2.0), ('format', 1.0)]
    """

    def __init__(self, terms: dict[str, dict[str, Any]]) -> None:
        self.terms: dict[str, Term] = {}
        self.weights: dict[str, float] = {}
        self._given: tuple[Any, Any] | None = None
        self._state: dict[str, Any] = {}
        for name, config in terms.items():
            config = dict(config)
            weight = config.pop('weight', 1.0)
            self.add(name, build_term(config), weight)

    def check_terms(self) -> None:
        """Raise a ValueError if there are no terms."""
        if not self.terms:
            raise ValueError('Rewards should have at least one term, but there is none; add one to '
                             '`train_cfg.rewards` (or to the metric), or a hook such as '
                             'DiscriminativeRewardHook to `custom_hooks`')

    def add(self, name: str, term: Term, weight: float = 1.0) -> None:
        """Add a term; works after :meth:`prepare` and :meth:`load_state_dict` as well.

        Raises:
            ValueError: The name is taken or not valid, or the weight is not finite; or whatever the
                term's ``prepare`` raises.
        """
        check_name(name, self.terms)
        check_weight(name, weight)
        if self._given is not None:
            prepare_term(term, *self._given)
        self.terms[name], self.weights[name] = term, float(weight)
        self._restore(name)

    def prepare(self, model: Any = None, dataset: Any = None) -> None:
        """Hand every term what it may need, including terms that are added later.

        Args:
            model: The trained model (:class:`ReasoningSegmentor`); None where there is none, as in
                a metric.
            dataset: The training data; None where there are none.
        """
        self._given = model, dataset
        for term in self.terms.values():
            prepare_term(term, model, dataset)

    def score(self, rollout: RolloutBatch) -> None:
        """Write every term into ``rollout.rewards``, in order.

        Raises:
            RuntimeError: A term raised an error; the message names the term. Out-of-memory and
                floating-point errors of a network pass through unchanged.
        """
        for name, term in self.terms.items():
            try:
                write_term(rollout, name, term)
            except (FloatingPointError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                raise RuntimeError(f'Reward term {name!r} should give each response a number, but '
                                   f'raised {type(error).__name__}: {error}') from error

    def total(self, rollout: RolloutBatch) -> Tensor:
        """The weighted sum, (B, G).

        Raises:
            RuntimeError: ``rollout.rewards`` lacks a term or has one that the run does not.
            ValueError: There are no terms, or a term has the wrong shape or a value that is not
                finite.
        """
        self.check_terms()
        missing = self.terms.keys() - rollout.rewards.keys()
        unknown = rollout.rewards.keys() - self.terms.keys()
        if missing or unknown:
            raise RuntimeError(
                f'`rollout.rewards` should hold the terms of the run, but missing: '
                f'{sorted(missing)}, not among them: {sorted(unknown)}. A hook adds a reward term '
                f'in `before_train(self, runner)`, with '
                f'`runner.train_loop.composition.add(name, term, weight)`')
        shape = (rollout.num_prompts, rollout.group_size)
        for name, values in rollout.rewards.items():
            if tuple(values.shape) != shape or not values.isfinite().all():
                raise ValueError(f'Reward term {name!r} should be finite and of shape (prompts, '
                                 f'responses) = {shape}, but got shape {tuple(values.shape)}: '
                                 f'{values}')
        # float64, so that a batch and its parts give the same sum
        return sum(weight * rollout.rewards[name].double().cpu()  # type: ignore[return-value]
                   for name, weight in self.weights.items())

    def state_dict(self) -> dict[str, Any]:
        """Plain data of the terms that keep state (those with a ``state_dict``)."""
        return {name: term.state_dict() for name, term in self.terms.items()
                if hasattr(term, 'state_dict')}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, also in terms that are added later; new terms
        start fresh."""
        self._state = dict(state)
        for name in self.terms:
            self._restore(name)

    def _restore(self, name: str) -> None:
        term = self.terms[name]
        if name in self._state and hasattr(term, 'load_state_dict'):
            term.load_state_dict(self._state[name])
