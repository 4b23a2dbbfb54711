# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The base of what chooses one of the answers that were sampled to a question."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mmdpad.structures import Candidate, Selection
from mmdpad.tasks import Task


@dataclass(frozen=True)
class Asked:
    """A question whose answers are to be measured.

    Attributes:
        model_image: uint8 (3, h, w), RGB.
        candidates: The N answers.
        prompt: The encoded prompt; None if no selector needs the policy.
        data_sample: The data sample.
    """

    model_image: Tensor
    candidates: Sequence[Candidate]
    prompt: Any = None
    data_sample: Any = None


class Selector(ABC):
    """Chooses one of N answers to a question.

    It gives each a value, and the highest one wins; of equal ones, the first. An answer without a
    value comes after those that have one, and an unusable response is chosen only if all are.

    Attributes:
        name: A short name, by which configs name the class with its default arguments, and that of
            its values in :attr:`.Selection.values`.
        needs_policy: Whether :meth:`measure` needs the policy and encoded prompts.
        needs_truth: Whether it needs the ground truth, and so can only serve in an evaluation.
        config: What it was built from.
    """

    name: str
    config: Mapping[str, Any] = {}
    needs_policy = False
    needs_truth = False

    @property
    def parts(self) -> list[Selector]:
        """The selectors whose :meth:`measure` gives what :meth:`values` needs."""
        return [self]

    def check_tasks(self, tasks: Mapping[str, Task]) -> None:
        """Check that it can choose among the answers of these tasks.

        Raises:
            ValueError: It cannot.
        """
        return

    def prepare(self) -> None:
        """Load what is needed, so that nothing starts without it. Called once, at the start.
        Errors of a discriminator are passed on."""
        return

    def measure(self, asked: Sequence[Asked], policy: Any) -> list[np.ndarray] | None:
        """Ask the models that are needed for the values of the answers to B questions.

        Returns:
            B float64 arrays (N,), NaN of an answer without a value, for :attr:`.Selection.values`.
            None if nothing has to be asked, since values follow from the candidates.
        """
        return None

    def cost(self, asked: Asked) -> int:
        """How many images a discriminator encodes for the answers to a question."""
        return 0

    def values(self, selection: Selection) -> np.ndarray:
        """The values float64 (n,) of n candidates, higher is better, NaN where there is none. No
        model is asked, so a part of a selection (:meth:`.Selection.first`) can be given."""
        return selection.values[self.name]

    def choose(self, selection: Selection) -> tuple[int, float]:
        """The index of the best candidate, and its value (NaN if it has none)."""
        values = self.values(selection)
        best = best_of(values, selection.usable)
        return best, float(values[best])

    def answer(self, selection: Selection, chosen: int) -> Candidate:
        """What to answer with, by default the chosen candidate."""
        return selection.candidates[chosen]


def best_of(values: np.ndarray, usable: np.ndarray) -> int:
    """The first of the candidates that are the best by their values (n,), NaN coming last and
    unusable ones (n,) after that."""
    ranks = np.where(np.isnan(values), -np.inf, values)
    return max(range(len(values)), key=lambda k: (usable[k], ranks[k]))


def check_masks(name: str, tasks: Mapping[str, Task]) -> None:
    """Check that a selector that needs masks gets answers with masks.

    Raises:
        ValueError: A task decodes none.
    """
    refuse(name, [task for task, own in tasks.items() if not own.decodes_masks],
           'answers with masks', "name 'likelihood' instead, which suits all tasks")


def refuse(name: str, tasks: Sequence[str], wanted: str, fix: str) -> None:
    """Raise ValueError if there are tasks that a selector cannot serve."""
    if tasks:
        raise ValueError(f'`tasks` should give {wanted} for the selector {name!r}, but '
                         f'{list(tasks)} do not; {fix}')
