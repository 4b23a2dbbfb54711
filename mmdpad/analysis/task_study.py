# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Measures the runs of a study of detection and question answering in the toy world.

A study is a folder of ``TASK_ARM/seed_N/`` with the files that
``tools/analysis_tools/run_task_study.py`` writes. Everything is a number of the test scenes, which
all runs answered: intervals are percentile bootstraps over scenes, which each draw takes with
replacement, the same ones for all runs. Of several seeds the mean is given, so an interval is about
other scenes with these seeds; how much seeds differ is told beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmdpad.evaluation.bootstrap import RESAMPLES, SEED, percentile_interval
from mmdpad.evaluation.detection_summary import DETECTIONS
from mmdpad.evaluation.summary import kind_of
from mmdpad.geometry.detections import DetectionMatcher, DetectionTruth
from mmdpad.toy.shapes_tasks import outer_box
from mmdpad.toy.shapes_world import SHAPES, Scene, captions_of, make_scene
from mmdpad.utils import read_jsonl

KINDS = ('specific', 'generic', 'other')
Row = Mapping[str, Any]
Pair = tuple[float, float]


@dataclass(frozen=True)
class Answers:
    """The answers of a run to the N test scenes in one mode.

    Attributes:
        rows: The metric's, in the order of the file.
        above, below: Measure -> numerators and denominators, float (N,).
    """

    rows: Sequence[Row]
    above: dict[str, np.ndarray]
    below: dict[str, np.ndarray]

    @property
    def scenes(self) -> int:
        return len(next(iter(self.above.values())))

    def values(self, name: str, weights: np.ndarray) -> np.ndarray:
        """A measure (R,) for weights of the scenes (R, N)."""
        above, below = weights @ self.above[name], weights @ self.below[name]
        return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


class TestScenes:
    """The scenes of a split, made once.

    Args:
        split: Name of the split.
    """

    __test__ = False

    def __init__(self, split: str = 'test') -> None:
        self.split = split
        self._made: dict[int, Scene] = {}

    def __getitem__(self, number: int) -> Scene:
        if number not in self._made:
            self._made[number] = make_scene(self.split, number)
        return self._made[number]


def scene_number(row: Row) -> int:
    """The number of the scene that a row is about, from the name of its image."""
    return int(Path(row['image']).stem.split('_')[-1])


def read_answers(samples: Path, rewards: Path, scenes: TestScenes) -> Answers:
    """Read the lines of a task's metric and of ``RewardMetric``.

    Raises:
        ValueError: Both files are not about the same questions.
    """
    rows, terms = (list(read_jsonl(str(path))) for path in (samples, rewards))
    if [(row['id'], row['question']) for row in rows] != [(row['id'], row['question'])
                                                          for row in terms]:
        raise ValueError(f'{samples} and {rewards} should be about the same questions, but are '
                         f'not; evaluate the run again')
    kind = kind_of(rows)
    measures = kind.measures(rows)
    describe = describe_detections if kind is DETECTIONS else describe_caption
    pairs = [dict({name: measure(row) for name, measure in measures.items()},
                  **describe(row, scenes[scene_number(row)]),
                  discriminative=_share(term['discriminative'])) for row, term in
             zip(rows, terms, strict=True)]
    numbers = [scene_number(row) for row in rows]
    found = np.zeros((2, len(pairs[0]), max(numbers) + 1))
    for number, some in zip(numbers, pairs, strict=True):
        found[:, :, number] += np.array([pair or (0, 0) for pair in some.values()]).T
    names = list(pairs[0])
    return Answers(rows, *(dict(zip(names, part, strict=True)) for part in found))


def _share(value: float | None) -> Pair | None:
    return None if value is None else (100 * value, 1)


def describe_detections(row: Row, scene: Scene) -> dict[str, Pair | None]:
    """Of a row of ``DetectionMetric``: what the descriptions of right boxes are, in percent of them
    (:data:`KINDS`; the rest describe nothing in the scene), and the F1 of each shape."""
    asked = [name.strip() for name in row['question'].split(',')]
    members = [i for i, item in enumerate(scene.objects) if item.shape in asked]
    match = DetectionMatcher(row['boxes'], row['labels'], DetectionTruth(
        [outer_box(scene.objects[i]) for i in members],
        [SHAPES.index(scene.objects[i].shape) for i in members])).match(0.5)
    kinds = [find_kind(row['descriptions'][i], scene, members[j]) for i, j, _ in match.pairs]
    per_class: dict[str, Pair | None] = {}
    for shape in SHAPES:
        right, wrong, missed = row['classes'].get(shape, (0, 0, 0))
        per_class[f'f1_{shape}'] = 200 * right, 2 * right + wrong + missed
    return dict({kind: (100 * kinds.count(kind), len(kinds)) for kind in KINDS}, **per_class)


def describe_caption(row: Row, scene: Scene) -> dict[str, Pair | None]:
    """Of a row of ``QuestionAnsweringMetric``: what its caption is (:data:`KINDS`), in percent of
    the answers to questions whose evidence is a single object."""
    wanted = [i for i, item in enumerate(scene.objects)
              if list(outer_box(item)) in [list(box) for box in row['evidence']]]
    if len(wanted) != 1:
        return dict.fromkeys(KINDS)
    kind = find_kind(row['caption'], scene, wanted[0])
    return {name: (100 * (kind == name), 1) for name in KINDS}


def find_kind(text: str | None, scene: Scene, index: int) -> str | None:
    """Which of :data:`KINDS` a description of an object is; None if it is of nothing in the
    scene."""
    return next((kind for kind, texts in captions_of(scene.objects, index).items()
                 if text in texts), None)


class Draws:
    """Bootstrap draws of N scenes: ``ones`` (1, N), and ``counts`` (R, N), how often a draw has
    each of them."""

    def __init__(self, scenes: int, resamples: int = RESAMPLES) -> None:
        self.ones = np.ones((1, scenes))
        self._resamples = resamples

    @cached_property
    def counts(self) -> np.ndarray:
        rng, number = np.random.default_rng(SEED), self.ones.shape[1]
        drawn = rng.integers(number, size=(self._resamples, number))
        return np.stack([np.bincount(draw, minlength=number) for draw in drawn]).astype(float)


@dataclass(frozen=True)
class Estimate:
    """A number of several seeds.

    Attributes:
        mean: Over the seeds.
        low, high: Its interval over scenes.
        seeds: Of each seed.
    """

    mean: float
    low: float
    high: float
    seeds: list[float]

    @classmethod
    def of(cls, observed: Sequence[float], drawn: Sequence[np.ndarray]) -> Estimate:
        """From the numbers (S) of S seeds and their draws (S, R)."""
        (low, high), = percentile_interval(np.mean(drawn, axis=0)[:, None])
        return cls(float(np.mean(observed)), float(low), float(high),
                   [float(value) for value in observed])


Measured = dict[str, tuple[list[float], list[np.ndarray]]]
"""Measure -> the numbers of S seeds, and their draws (R,) each."""


def measure_seeds(runs: Sequence[Answers], draws: Draws) -> Measured:
    """All measures of the runs of an arm."""
    found = {name: ([float(run.values(name, draws.ones)[0]) for run in runs],
                    [run.values(name, draws.counts) for run in runs]) for name in runs[0].above}
    per_class = [both for name, both in found.items() if name.startswith('f1_')]
    if per_class:
        found['macro_f1'] = ([float(np.mean(some)) for some in zip(*(
            values for values, _ in per_class), strict=True)], [np.mean(some, axis=0) for some in
                             zip(*(drawn for _, drawn in per_class), strict=True)])
    return found


def estimates(measured: Measured) -> dict[str, Estimate]:
    """The estimate of each measure."""
    return {name: Estimate.of(*both) for name, both in measured.items()}


def differences(measured: Measured, reference: Measured) -> dict[str, Estimate]:
    """How much larger each measure is than that of a reference, seed by seed; if one of them has a
    single run, it stands for all seeds."""
    found = {}
    for name in measured.keys() & reference.keys():
        (values, drawn), (others, other_draws) = measured[name], reference[name]
        seeds = max(len(values), len(others))
        pick = range(seeds)
        found[name] = Estimate.of(
            [values[i % len(values)] - others[i % len(others)] for i in pick],
            [drawn[i % len(drawn)] - other_draws[i % len(other_draws)] for i in pick])
    return found
