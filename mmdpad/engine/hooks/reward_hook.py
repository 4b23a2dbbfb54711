# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Base of the hooks that give a reward."""

from __future__ import annotations

from functools import partial

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmdpad.rewards import write_term
from mmdpad.structures import RolloutBatch


class RewardHook(Hook):
    """Announces a term when training starts and writes it at the loop's ``after_rollout``.

    A subclass has :meth:`score`, perhaps :meth:`prepare`, and an ``__init__`` that sets
    ``self.term`` and ``self.weight`` by its arguments ``name`` and ``weight``, so that a config can
    have the hook twice.

    Attributes:
        term: Name of the term in logs, curves and alarms; of the class: the name where a config
            gives none.
        weight: Of the term in the sum of rewards.
    """

    term: str = ''
    weight: float = 1.0

    def prepare(self, runner: Runner) -> None:
        """Build models, or refuse what cannot be scored; before anything is trained."""

    def score(self, runner: Runner, rollout: RolloutBatch) -> Tensor:
        """The term, (B, G), finite; the lowest value is that of a response that says nothing."""
        raise NotImplementedError(f'{type(self).__name__} should have a method `score`')

    def before_train(self, runner: Runner) -> None:
        """Prepare and announce the term.

        Raises:
            ValueError: Another term has its name.
        """
        runner.train_loop.composition.expect(self.term, self.weight)
        self.prepare(runner)

    def after_rollout(self, runner: Runner, rollout: RolloutBatch) -> None:
        """Write the term and its signals into the rollout."""
        write_term(rollout, self.term, partial(self.score, runner))
