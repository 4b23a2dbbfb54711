# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Base of the hooks that add a reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdpad.registry import type_name
from mmdpad.rewards import build_term
from mmdpad.structures import RolloutBatch


class RewardHook(Hook):
    """Adds a reward term to those of the loop when training starts.

    ``dict(type=HOOK, **arguments)`` in ``custom_hooks`` is the same as
    ``NAME=dict(type=KIND, **arguments)`` in ``train_cfg.rewards``. A subclass has two attributes:

    Attributes:
        kind: Class of the term, or its name in the registry ``REWARDS``.
        term: Name of the term in logs, curves and alarms; the class attribute is the default.

    Args:
        weight: Of the term in the sum of rewards.
        name: Of the term; each hook in a config needs a different one.
        tasks: The tasks whose prompts it scores; None for all.
        **arguments: Of the term.
    """

    kind: Callable[..., Any] | str = ''
    term: str = ''

    def __init__(self, weight: float = 1.0, name: str | None = None,
                 tasks: Sequence[str] | None = None, **arguments: Any) -> None:
        self.term = self.term if name is None else name
        self.weight, self.tasks = weight, tasks
        self.config = dict(arguments, type=self.kind)
        self.reward = build_term(self.config)

    @classmethod
    def as_term(cls, entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Name and config of the term that a hook of this config adds, for the checks and tools
        that look for rewards (:func:`mmdpad.rewards.list_rewards`).

        A subclass whose ``__init__`` changes the arguments must change them here as well.
        """
        arguments = {key: value for key, value in entry.items() if key not in ('name', 'priority')}
        name = entry.get('name')
        return cls.term if name is None else name, dict(arguments, type=cls.kind)

    def before_train(self, runner: Runner) -> None:
        """Add the term, which prepares it.

        Raises:
            ValueError: Its name is taken, or it cannot score this model or data.
        """
        runner.train_loop.composition.add(self.term, self.reward, self.weight, self.tasks)
        arguments = {key: value for key, value in self.config.items() if key != 'type'}
        runner.logger.info(f'Reward term {self.term!r} ({type_name(self.config)}): weight '
                           f'{self.weight}, {arguments}'
                           + (f', for {", ".join(self.tasks)}' if self.tasks else ''))

    def after_rollout(self, runner: Runner, rollout: RolloutBatch) -> None:
        """Check that the term was added.

        Raises:
            RuntimeError: It was not.
        """
        if self.term not in rollout.rewards:
            raise RuntimeError(f'{type(self).__name__} should have added its reward term '
                               f'{self.term!r}, but the terms are {list(rollout.rewards)}; call '
                               f'`super().before_train(runner)` in its `before_train`')
