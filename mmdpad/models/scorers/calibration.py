# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Maps the features of a scored box to the probability that the box is right.

:mod:`mmdpad.evaluation.calibration` fits what this applies.
"""

from __future__ import annotations

import hashlib
import json
import math
import os.path as osp
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmdpad.utils import jsonable, write_atomically

from .log_odds import TINY, log_odds, sigmoid

PROBABILITIES = ('score', 'likelihood', 'discrimination')
"""Features in [0, 1], which Platt scaling takes as log odds; it takes others as they are."""


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration.

    - 'platt' (Platt, 1999): sigmoid(weights . x + bias) of the features x, those in
      :data:`PROBABILITIES` as log odds;
    - 'isotonic' (Zadrozny and Elkan, 2002): the linear interpolation of the points (x, y) with
      rising x and y, of a single feature, and the first or last y beyond them.

    Attributes:
        method: 'platt' or 'isotonic'.
        features: The names of the features.
        parameters: ``weights`` (one for each feature) and ``bias``, or ``x`` and ``y``.
        missing: The probability of a box of which a feature is unknown, in [0, 1].
        scorer: The options of the scorer whose features these are, see :meth:`.BoxScorer.options`.
        fitted_on: What it was fitted on: ``data`` (SHA-256 of the data set), ``images`` (a short
            hash of each image's name), ``policy`` (SHA-256 of the weights), ``n``, ``right`` and so
            on, as far as it is known.
        file, sha256: The file it was read from, and its SHA-256; empty otherwise.

    Raises:
        ValueError: The method is unknown, or the parameters do not fit it.
    """

    method: str
    features: tuple[str, ...]
    parameters: dict[str, Any]
    missing: float
    scorer: dict[str, Any]
    fitted_on: dict[str, Any] = field(default_factory=dict)
    file: str = ''
    sha256: str = ''

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f'`method` should be one of {tuple(METHODS)}, but got '
                             f'{self.method!r}')
        if not 0 <= self.missing <= 1:
            raise ValueError(f'`missing` should be in [0, 1], but got {self.missing}')
        METHODS[self.method](self.parameters, np.zeros((len(self.features), 1)))

    @property
    def images(self) -> list[str]:
        """A short hash of each image that it was fitted on, as far as they are known."""
        return self.fitted_on.get('images', [])

    def apply(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """The probabilities float64 (n,) of n boxes.

        Args:
            features: Name -> (n,), with NaN where a value is unknown.

        Raises:
            ValueError: A feature is missing.
        """
        if without := [name for name in self.features if name not in features]:
            raise ValueError(f'`features` should have {without}, to which {self.file or "this"} '
                             f'was fitted, but has {sorted(features)}')
        given = as_inputs(features, self.features)
        known = np.isfinite(given).all(axis=0)
        found = np.full(given.shape[1], float(self.missing))
        found[known] = METHODS[self.method](self.parameters, given[:, known])
        return found

    def describe(self) -> dict[str, Any]:
        """``method``, ``features``, the ``file`` by its name and ``sha256``, and the ``data`` and
        ``policy`` in ``fitted_on``."""
        return dict(method=self.method, features=list(self.features),
                    file=osp.basename(self.file), sha256=self.sha256,
                    **{name: self.fitted_on.get(name) for name in ('data', 'policy')})

    def write(self, path: str) -> str:
        """Write a JSON file; if the name is taken, a number is added to it.

        Returns:
            The path.
        """
        content = {name: value for name, value in vars(self).items()
                   if name not in ('file', 'sha256')}
        return write_atomically(path, json.dumps(jsonable(content), indent=1).encode())

    @classmethod
    def read(cls, path: str) -> Calibration:
        """Read a file that :meth:`write` wrote.

        Raises:
            ValueError: There is no such file, or it is another one.
        """
        wrong = f'`calibration` should be a file of `mmdpad run calibrate_scores`, but {path!r}'
        if not osp.isfile(path):
            raise ValueError(f'{wrong} does not exist; correct the path, or fit one')
        with open(path, 'rb') as file:
            content = file.read()
        try:
            entries = json.loads(content)
            entries['features'] = tuple(entries['features'])
            return cls(**entries, file=path, sha256=hashlib.sha256(content).hexdigest())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f'{wrong} is not one ({error}); fit it again') from error


def as_inputs(features: Mapping[str, Sequence[float] | np.ndarray],
              names: Sequence[str]) -> np.ndarray:
    """The features with these names as float64 (K, n), those in :data:`PROBABILITIES` as log odds.
    """
    values = {name: np.asarray(features[name], np.float64) for name in names}
    return np.stack([log_odds(value, TINY) if name in PROBABILITIES else value
                     for name, value in values.items()])


def _platt(parameters: Mapping[str, Any], given: np.ndarray) -> np.ndarray:
    weights = np.array(parameters['weights'], np.float64)
    bias = float(parameters['bias'])
    if weights.shape != (len(given), ) or not np.isfinite([*weights, bias]).all():
        raise ValueError(f'`weights` should be one finite number for each of {len(given)} '
                         f'features, and `bias` another, but got {parameters}')
    return sigmoid(weights @ given + bias)


def _isotonic(parameters: Mapping[str, Any], given: np.ndarray) -> np.ndarray:
    x, y = (np.array(parameters[name], np.float64) for name in ('x', 'y'))
    if len(given) != 1 or x.ndim != 1 or not len(x) or x.shape != y.shape or not (
            (np.diff(x) > 0).all() and (np.diff(y) >= 0).all() and 0 <= y[0] <= y[-1] <= 1
            and math.isfinite(x[0] + x[-1])):
        raise ValueError(f'`x` and `y` should be equally many rising numbers, y in [0, 1], for a '
                         f'single feature, but got {parameters} for {len(given)}')
    return np.interp(given[0], x, y)


METHODS: dict[str, Callable[[Mapping[str, Any], np.ndarray], np.ndarray]] = dict(
    platt=_platt, isotonic=_isotonic)
"""Name -> function of parameters and inputs (K, n) that gives n probabilities."""
