# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Named reward terms and their weighted sum."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Subset

from mmdpad.registry import REWARDS, resolve, type_name
from mmdpad.structures import RolloutBatch

TOTAL = 'total'
"""Name of the weighted sum, next to the names of the terms."""

Term = Callable[[RolloutBatch], Tensor]


class Place(NamedTuple):
    """What an entry of ``train_cfg.rewards`` says.

    Attributes:
        term: Config of the term itself.
        weight: Of the term in the sum.
        tasks: The tasks whose prompts it scores; None for all.
    """

    term: dict[str, Any]
    weight: float
    tasks: Sequence[str] | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Place:
        """Take ``weight`` (1.0) and ``tasks`` (None) out of a config."""
        term = dict(config)
        return cls(weight=term.pop('weight', 1.0), tasks=term.pop('tasks', None), term=term)


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


def write_term(rollout: RolloutBatch, name: str, term: Term,
               prompts: Sequence[int] | None = None) -> None:
    """Compute a term and write it into ``rollout.rewards``.

    If another term already wrote a signal of the same name, that signal stays and this term's is
    stored as ``<name>_<signal>``: with two discriminative terms, the second of which is called
    'domain', the second one's margin is 'domain_s_margin'.

    Args:
        rollout: Of B prompts.
        name: Of the term.
        term: Called with these prompts only.
        prompts: Their numbers; None for all. The term's values and signals are NaN for the others.

    Raises:
        ValueError: The values for some of the prompts have the wrong shape.
    """
    part = rollout if prompts is None else rollout.select(prompts)
    before = dict(part.signals)
    values = term(part)
    own = {signal: value for signal, value in part.signals.items()
           if value is not before.get(signal)}
    part.signals = before
    for signal, value in own.items():
        written = f'{name}_{signal}' if signal in before else signal
        rollout.signals[written] = _placed(value, prompts, rollout)
    rollout.rewards[name] = _placed(values, prompts, rollout)


def _placed(values: Tensor, prompts: Sequence[int] | None, rollout: RolloutBatch) -> Tensor:
    """Values of some prompts among those of all, which are NaN."""
    if prompts is None:
        return values
    shape = (len(prompts), rollout.group_size)
    if tuple(values.shape) != shape:
        raise ValueError(f'the values of {len(prompts)} prompts should have the shape (prompts, '
                         f'responses) = {shape}, but got {tuple(values.shape)}')
    floats = values if values.is_floating_point() else values.float()
    placed = floats.new_full((rollout.num_prompts, rollout.group_size), math.nan)
    placed[torch.tensor(prompts, dtype=torch.long, device=placed.device)] = floats
    return placed


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


def check_tasks(name: str, tasks: Any, known: Collection[str] | None = None) -> None:
    """Refuse the tasks of a term.

    Args:
        name: Of the term.
        tasks: Names, or None for all.
        known: The tasks of the model, if they are known.

    Raises:
        ValueError: This is not a list of names, or the model lacks one.
    """
    if tasks is None:
        return
    if not isinstance(tasks, (list, tuple)) or not tasks or not all(
            isinstance(task, str) for task in tasks):
        raise ValueError(f'The `tasks` of the reward term {name!r} should be a list of names of '
                         f'tasks, but got {tasks!r}; correct it, or leave it out for all tasks')
    if known is not None and (missing := [task for task in tasks if task not in known]):
        raise ValueError(f'The `tasks` of the reward term {name!r} should be among those of the '
                         f'model ({", ".join(known)}), but got {", ".join(missing)}; correct them, '
                         f'or add them to `model.tasks`')


def find_unrewarded(terms: Iterable[Sequence[str] | None],
                    tasks: Iterable[str]) -> list[str]:
    """The tasks that no term scores, given the ``tasks`` of each term."""
    scored = list(terms)
    return [task for task in tasks if not any(own is None or task in own for own in scored)]


def describe_unrewarded(tasks: Sequence[str]) -> str:
    """The problem with tasks that are asked but not scored, as a message."""
    return (f'Each task that is asked should have a reward term, but {", ".join(tasks)} has none; '
            f'add one to `train_cfg.rewards` (or to the metric), or the task to the `tasks` of one')


class RewardComposition:
    """The terms of a run and the sum R = sum_k weight_k * term_k.

    A term is a callable ``term(rollout) -> (B, G)`` float tensor: an object of a registered class,
    or a registered function ``term(rollout, **rest of the config)``. An object may also have:

    - ``prepare(model, dataset)``, called once before anything is scored. It hands the term what a
      config does not hold, and the term raises there if it cannot score them. See :meth:`prepare`.
    - ``state_dict()`` and ``load_state_dict(state)``, plain data that a resumed run restores.

    A term may be for the prompts of some tasks only, its ``tasks``. It is then called with a
    rollout of these prompts, and not at all if there are none, unless its class sets
    ``all_processes = True`` because it exchanges data with the other processes. It has no value for
    the prompts of other tasks (NaN in ``rollout.rewards``), whose sum leaves it out.

    Its class sets ``needs_model = True`` if the term runs a network and cannot work from the texts
    alone, and ``needs_decoder = True`` if that network is the decoder of the trained model;
    ``needs_conversation = True`` if responses have to be conversations (`model.conversation`).

    Args:
        terms: Name -> config of a registered term, with an optional ``weight`` (1.0) and optional
            ``tasks`` (a list of names; None for all).

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
        self.tasks: dict[str, Sequence[str] | None] = {}
        self._given: tuple[Any, Any] | None = None
        self._item_tasks: list[str | None] | None = None  # of the data set in `_given`
        self._state: dict[str, Any] = {}
        for name, config in terms.items():
            place = Place.of(config)
            self.add(name, build_term(place.term), place.weight, place.tasks)

    def check_terms(self, tasks: Iterable[str] = ()) -> None:
        """Check that there are terms.

        Args:
            tasks: The tasks of the prompts, if they are known.

        Raises:
            ValueError: There are no terms, or none for one of the tasks.
        """
        if not self.terms:
            raise ValueError('Rewards should have at least one term, but there is none; add one to '
                             '`train_cfg.rewards` (or to the metric), or a hook such as '
                             'DiscriminativeRewardHook to `custom_hooks`')
        if unrewarded := find_unrewarded(self.tasks.values(), tasks):
            raise ValueError(describe_unrewarded(unrewarded))

    def add(self, name: str, term: Term, weight: float = 1.0,
            tasks: Sequence[str] | None = None) -> None:
        """Add a term; works after :meth:`prepare` and :meth:`load_state_dict` as well.

        Raises:
            ValueError: The name is taken or not valid, the weight is not finite, or the tasks are
                wrong (:func:`check_tasks`); or whatever the term's ``prepare`` raises.
        """
        check_name(name, self.terms)
        check_weight(name, weight)
        check_tasks(name, tasks)
        if self._given is not None:
            self._prepare(name, term, tasks)
        self.terms[name], self.weights[name], self.tasks[name] = term, float(weight), tasks
        self._restore(name)

    def prepare(self, model: Any = None, dataset: Any = None) -> None:
        """Hand every term what it may need, including terms that are added later.

        Args:
            model: The trained model (:class:`ReasoningSegmentor`); None where there is none, as in
                a metric.
            dataset: The training data; None where there are none.
        """
        self._given, self._item_tasks = (model, dataset), None
        for name, term in self.terms.items():
            self._prepare(name, term, self.tasks[name])

    def _prepare(self, name: str, term: Term, tasks: Sequence[str] | None) -> None:
        """Prepare a term with the items of its tasks."""
        assert self._given is not None
        model, dataset = self._given
        known = getattr(model, 'tasks', None)
        check_tasks(name, tasks, known)
        if tasks is not None and hasattr(dataset, 'get_data_info'):
            if self._item_tasks is None:
                default = next(iter(known), None) if known else None
                self._item_tasks = [dataset.get_data_info(number).get('task') or default
                                    for number in range(len(dataset))]
            dataset = Subset(dataset, [number for number, task in enumerate(self._item_tasks)
                                       if task in tasks])
            if not len(dataset):
                raise ValueError(f'The reward term {name!r} is for {", ".join(tasks)}, but the '
                                 f'training data have no question of such a task; leave the term '
                                 f'out, or correct the `task` of the data set')
        prepare_term(term, model, dataset)

    def score(self, rollout: RolloutBatch) -> None:
        """Write every term into ``rollout.rewards``, in order.

        Raises:
            RuntimeError: A term raised an error; the message names the term. Out-of-memory and
                floating-point errors of a network pass through unchanged.
        """
        for name, term in self.terms.items():
            try:
                prompts = self._prompts_of(name, rollout)
                if prompts == [] and not getattr(term, 'all_processes', False):
                    rollout.rewards[name] = torch.full(
                        (rollout.num_prompts, rollout.group_size), math.nan)
                else:
                    write_term(rollout, name, term, prompts)
            except (FloatingPointError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                raise RuntimeError(f'Reward term {name!r} should give each response a number, but '
                                   f'raised {type(error).__name__}: {error}') from error

    def total(self, rollout: RolloutBatch) -> Tensor:
        """The weighted sum, (B, G), of the terms that score a prompt.

        Raises:
            RuntimeError: ``rollout.rewards`` lacks a term or has one that the run does not.
            ValueError: There are no terms, or none for a prompt; or a term has the wrong shape or a
                value that is not finite for a prompt that it scores.
        """
        self.check_terms([task for task in rollout.tasks if task is not None])
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
            prompts = self._prompts_of(name, rollout)
            scored = values if prompts is None or values.shape != shape else values[prompts]
            if tuple(values.shape) != shape or not scored.isfinite().all():
                raise ValueError(f'Reward term {name!r} should be finite and of shape (prompts, '
                                 f'responses) = {shape}, but got shape {tuple(values.shape)}: '
                                 f'{values}')
        # float64, so that a batch and its parts give the same sum
        return sum(self.weights[name] * values  # type: ignore[return-value]
                   for name, values in self.scored(rollout).items())

    def scored(self, rollout: RolloutBatch) -> dict[str, Tensor]:
        """Name -> the (B, G) float64 values of each term, unweighted, in the order of the terms; 0
        for the prompts that it does not score."""
        found = {name: rollout.rewards[name].double().cpu() for name in self.terms}
        return {name: values if self.tasks[name] is None else values.nan_to_num()
                for name, values in found.items()}

    def _prompts_of(self, name: str, rollout: RolloutBatch) -> list[int] | None:
        """The numbers of the prompts that a term scores; None for all.

        Raises:
            ValueError: The term is for some tasks only, and a prompt does not name its task.
        """
        own = self.tasks[name]
        if own is None:
            return None
        if None in rollout.tasks:
            raise ValueError(f'The samples should name their `task` where a reward term ({name!r}) '
                             f'has `tasks`, but one does not; the model writes it (`rollout`, '
                             f'`predict`), and so does `task` of a data set')
        found = [number for number, task in enumerate(rollout.tasks) if task in own]
        return None if len(found) == rollout.num_prompts else found

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
