# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The base of what gives each object of an answer a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmdpad.prompts import Places
from mmdpad.registry import MODELS
from mmdpad.structures import AnsweredObject
from mmdpad.utils import jsonable
from mmdpad.utils.files import strip_folders

from .calibration import Calibration


@dataclass(frozen=True)
class GivenAnswer:
    """An answer whose objects are to be scored.

    Attributes:
        model_image: uint8 (3, h, w), RGB.
        objects: Its objects, in pixels of the model image.
        response: The text of the response.
        response_ids: (R,) long, its tokens as sampled; None for a stored text, which is tokenized
            again.
        prompt: The encoded prompt; None if the scorer needs no policy.
        locate: Finds the objects in a response, see :meth:`mmdpad.tasks.Task.locate`.
    """

    model_image: Tensor
    objects: Sequence[AnsweredObject]
    response: str = ''
    response_ids: Tensor | None = None
    prompt: Any = None
    locate: Callable[[str], list[Places]] | None = None


@dataclass(frozen=True)
class ScoredObjects:
    """The scores of n objects, in their order.

    Attributes:
        scores: float64 (n,) in [0, 1].
        features: Name -> float64 (n,), what the scores were computed from, NaN where it is unknown;
            with ``score``, the score before calibration.
    """

    scores: np.ndarray
    features: dict[str, np.ndarray]


class BoxScorer(ABC):
    """Gives each object of an answer a score in [0, 1], the higher the more likely it is right.

    Answers need not come from an evaluation: the same values can rank the answers that were sampled
    to one question.

    Args:
        calibration: A file of ``mmdpad run calibrate_scores``, which maps the features of this
            scorer to the probability that a box is right; None for scores as they are.

    Attributes:
        name: A short name, that of its score as a feature of :class:`CombinedScorer`.
        feature_names: The names of its features, without ``score``.
        needs_policy: Whether the policy and encoded prompts are needed.
        calibration: The calibration, or None.
    """

    name: str
    feature_names: tuple[str, ...]
    needs_policy = False

    def __init__(self, calibration: str | None = None) -> None:
        self.calibration = None if calibration is None else Calibration.read(calibration)

    def check_calibration(self) -> None:
        """Check that the calibration was fitted for this scorer.

        Raises:
            ValueError: It was fitted for another one, or with other options.
        """
        if self.calibration is not None and self.calibration.scorer != self.options():
            raise ValueError(
                f'`calibration` should be fitted to the scores of {self.options()}, but '
                f'{self.calibration.file!r} was fitted to those of {self.calibration.scorer}; '
                'evaluate with this scorer on a validation split and run `mmdpad run '
                'calibrate_scores`, or set the same options')

    def prepare(self, policy: Any) -> None:
        """Load what is needed, so that nothing starts without it. Called once, at the start.

        Raises:
            ValueError: The policy cannot be used. Errors of a discriminator are passed on.
        """
        return

    @torch.no_grad()
    def __call__(self, answers: Sequence[GivenAnswer], policy: Any = None) -> list[ScoredObjects]:
        """Score the objects of N answers, which may have none.

        Args:
            answers: N answers.
            policy: The policy, for a scorer that needs it.
        """
        found = self.score(answers, policy)
        if self.calibration is None:
            return found
        return [ScoredObjects(self.calibration.apply(own.features), own.features) for own in found]

    @abstractmethod
    def score(self, answers: Sequence[GivenAnswer], policy: Any) -> list[ScoredObjects]:
        """:meth:`__call__` without calibration."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What the scores depend on, as plain data: ``type`` and options, without folders of this
        machine and the calibration."""

    def describe(self) -> dict[str, Any]:
        """:meth:`options`, and ``calibration``: None, or its method, features and file."""
        return dict(self.options(), calibration=self.calibration and self.calibration.describe())


def build_scorer(config: Any, path: str = 'box_scorer') -> BoxScorer:
    """Build a scorer.

    Raises:
        ValueError: The config has no ``type``, or is of another kind of model.
    """
    if not isinstance(config, Mapping) or 'type' not in config:
        raise ValueError(f'`{path}` should be a dict with the `type` of a scorer, such as '
                         f"dict(type='LikelihoodScorer'), but got {config!r}")
    scorer = MODELS.build(config)
    if not isinstance(scorer, BoxScorer):
        raise ValueError(not_a_scorer(path, type(scorer)))
    return scorer


def not_a_scorer(path: str, kind: type) -> str:
    """The problem with a model of another kind, as a message."""
    return (f'`{path}.type` should be LikelihoodScorer or another subclass of BoxScorer, but got '
            f'{kind.__name__}; use such a class')


def as_plain(config: Any) -> Any:
    """A config as plain data: classes by name, paths without their folders."""
    if isinstance(config, Mapping):
        return {str(key): as_plain(value) for key, value in sorted(config.items())}
    if isinstance(config, list | tuple):
        return [as_plain(value) for value in config]
    if isinstance(config, str):
        return strip_folders(config)
    return jsonable(getattr(config, '__name__', config))
