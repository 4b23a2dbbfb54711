# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Aggregates the runs of a study: arms over seeds, and differences between arms.

A study is a folder. Each arm has ``ARM/arm.json`` and runs ``ARM/seed_N/`` that answered the same
scenes, in each of :data:`MODES` with three files of one line per sample (:data:`KINDS`). Unless an
arm's ``arm.json`` says ``trained: false``, its runs also have a training log. Two intervals are
given:

- over seeds: Student's t with n - 1 degrees of freedom on the numbers of n seeds (for differences,
  of n pairs with the same seed), for fixed scenes;
- over seeds and scenes, for differences: a percentile bootstrap that in each draw resamples seeds
  and then scenes with replacement. Both arms and all seeds share the scenes, as all answered the
  same test sets. With few seeds it is too narrow, by sqrt((n - 1) / n).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmdpad.evaluation.bootstrap import LEVEL, RESAMPLES, SEED, bootstrap_ratios
from mmdpad.evaluation.measures import Measure, Row
from mmdpad.evaluation.pairing import Key, number_samples, show_keys
from mmdpad.evaluation.segmentation_summary import MEASURES as OF_ANSWERS
from mmdpad.utils import read_jsonl, training_logs
from mmdpad.visualization.curves import read_scalars

from .seeds import seeds_and_scenes_interval, t_interval

SETS, ALL = ('few', 'many', 'look_alikes', 'shifted'), 'all'
MODES, START, GROUPS = ('sampled', 'greedy'), 'start', ('main', 'control', 'other')
REASONING, LENGTH_CHANGE = 'reasoning_tokens', 'reasoning_tokens_percent'
NO_SIGNAL = 'frac_reward_zero_std'
"""Name in a training log of the share of groups whose rewards are all equal."""
TWO_LEVEL = ('giou', 'ciou', REASONING, LENGTH_CHANGE)
"""Differences that also get an interval over seeds and scenes."""

KINDS: dict[str, tuple[str, ...]] = dict(
    samples=('iou', 'intersection', 'union', 'failure', 'reasoning_tokens', 'caption_tokens'),
    specific=('specific', 'signal_s_rank'), rewards=('signal_s_margin',))
"""Files of a run, ``MODE.KIND.jsonl``, and the keys read from each besides image and question."""


def _mean(key: str) -> Measure:
    """The mean of a column over its values, ignoring null and NaN."""
    def measure(row: Row) -> tuple[float, float] | None:
        value = row[key]
        return None if value is None or math.isnan(value) else (value, 1)
    return measure


MEASURES: dict[str, Measure] = dict(
    {name: OF_ANSWERS[name] for name in ('giou', 'ciou', REASONING, 'caption_tokens')},
    specificity=lambda row: (100 * row['specific'], 1), rank=_mean('signal_s_rank'),
    margin=_mean('signal_s_margin'),
    ranked=lambda row: (100 * (_mean('signal_s_rank')(row) is not None), 1),
    failures=lambda row: (100 * (row['failure'] is not None), 1))
"""Ratios of sums over samples, as in :mod:`.summary`, by name; ``ranked`` is the share of samples
that have a ``rank``."""
_FEW_CAPTIONS = 0.05
"""A run with captions in fewer of its answers was asked for none: ``specificity`` is unknown."""

TITLES = dict(giou='gIoU', ciou='cIoU', reasoning_tokens='reasoning, tokens',
              caption_tokens='caption, tokens', specificity='specific, %', rank='rank',
              margin='margin', ranked='ranked, %', failures='failures, %',
              reasoning_tokens_percent='reasoning, %', no_signal='groups without signal, %')


@dataclass(frozen=True)
class Answers:
    """The answers of a run in one mode.

    Attributes:
        keys: The N samples, sorted; the id is ``SET/SPLIT/FILE``.
        above, below: Numerators and denominators of the K :data:`MEASURES`, float64 (K, N).
    """
    keys: list[Key]
    above: np.ndarray
    below: np.ndarray

    def part(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """``above`` and ``below`` for one set's samples, or for :data:`ALL`."""
        kept = [name in (ALL, set_of(key)) for key in self.keys]
        return self.above[:, kept], self.below[:, kept]

    def values(self, name: str) -> np.ndarray:
        """(K,) the measures over a set's samples; NaN for a measure without samples."""
        return _ratios(self.part(name))


@dataclass
class Arm:
    """An arm as read from its folder.

    Attributes:
        name: The folder's name.
        about: ``title``, ``seeds``, ``compare_with`` and ``group`` from its ``arm.json``.
        answers: mode -> seed -> the answers of the run, for complete runs.
        no_signal: seed -> the mean of :data:`NO_SIGNAL` over the training, in percent, for runs
            that are complete in a mode and whose logs have it.
        missing: A sentence for each excluded run, with the reason.
    """
    name: str
    about: dict[str, Any]
    answers: dict[str, dict[int, Answers]] = field(
        default_factory=lambda: {mode: {} for mode in MODES})
    no_signal: dict[int, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def analyze_study(folder: Path, also: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """All numbers of a study as plain data; unknown values are NaN.

    Args:
        folder: The study's folder.
        also: Further pairs (arm, reference) to compare besides those that ``arm.json`` files
            name.

    Returns:
        ``arms``: ``name``, ``title``, ``group``, ``compare_with``, ``seeds`` (how many there should
        be), ``complete`` (mode -> seeds), ``missing`` (sentences), ``logs`` (seed -> training
        logs, relative to ``folder``), ``numbers`` (mode -> set -> measure ->
        :func:`t_interval`, and ``values`` by seed); ``differences``: ``arm``, ``reference``,
        ``seeds`` (mode -> the paired ones) and ``numbers`` (mode -> set ->
        :func:`paired_over_seeds`); ``notes``: what could not be compared; ``sets``, ``samples``
        (set -> how many), ``modes``, ``titles``, ``method``.

    Raises:
        ValueError: There is no arm or no complete run, a file is damaged, runs answered different
            scenes, or an arm in ``also`` does not exist.
    """
    arms = read_arms(folder)
    runs = [(f'{arm.name}/seed_{seed} ({mode})', answers) for arm in arms
            for mode, by_seed in arm.answers.items() for seed, answers in by_seed.items()]
    if not runs:
        raise ValueError(f'{folder} should have at least one complete run, but: '
                         + '; '.join(line for arm in arms for line in arm.missing))
    check_same_scenes(runs)
    found = [set_of(key) for key in runs[0][1].keys]
    sets = [ALL, *sorted(set(found), key=lambda name: (_place(SETS, name), name))]
    by_name, differences, notes = {arm.name: arm for arm in arms}, [], []
    for name, reference in also:
        if not {name, reference} <= by_name.keys():
            raise ValueError(f'Arms to compare should be two of {list(by_name)}, but got {name!r} '
                             f'and {reference!r}; correct the names')
        if reference not in (given := by_name[name].about['compare_with']):
            given.append(reference)
    for arm in arms:
        for name in arm.about['compare_with']:
            difference = compare_arms(by_name[name], arm, sets) if name in by_name else None
            if difference and any(difference['seeds'].values()):
                differences.append(difference)
            else:
                notes.append(f'{arm.name} cannot be compared with {name}: no seed is complete in '
                             f'both')
    return dict(
        arms=[describe_arm(folder, arm, sets) for arm in arms], differences=differences,
        notes=notes, sets=sets, modes=list(MODES), titles=TITLES,
        samples={name: len(found) if name == ALL else found.count(name) for name in sets},
        method=dict(level=LEVEL, seeds="Student's t over seeds", resamples=RESAMPLES, seed=SEED,
                    seeds_and_scenes='percentile bootstrap over seeds, then scenes'))


def read_arms(folder: Path) -> list[Arm]:
    """All arms with their complete runs: the start policy, then by group, each after the arms it
    is compared with, and by name.

    Raises:
        ValueError: There is no arm, an ``arm.json`` is invalid, or a file is damaged.
    """
    paths = sorted(folder.glob('*/arm.json'))
    if not paths:
        raise ValueError(f'{folder} should be the folder of a study, with ARM/arm.json for each '
                         f'arm, but has none; run `mmdpad run run_study` first')
    arms = {path.parent.name: read_arm(path.parent) for path in paths}

    def steps(name: str, behind: tuple[str, ...] = ()) -> int:
        """The number of comparisons that lead to an arm without a reference."""
        others = arms[name].about.get('compare_with', ()) if name in arms else ()
        return max((1 + steps(other, (*behind, name)) for other in others
                    if other not in (*behind, name)), default=0)

    return sorted(arms.values(), key=lambda arm: (
        arm.name != START, GROUPS.index(arm.about['group']), steps(arm.name), arm.name))


def read_arm(folder: Path) -> Arm:
    """Read one arm; a run that lacks a file is excluded from that mode and named in ``missing``."""
    arm = Arm(folder.name, _read_about(folder / 'arm.json'))
    runs = {int(path.name[5:]): path for path in folder.glob('seed_*') if path.name[5:].isdigit()}
    for seed, run in sorted(runs.items()):
        for mode in MODES:
            needed = [f'{mode}.{kind}.jsonl' for kind in KINDS]
            lacks = [name for name in needed if not _has_content(run / name)]
            if arm.about['trained'] and not training_logs(run / 'train'):
                lacks.append('train/TIME/vis_data/scalars.json')
            if lacks:
                arm.missing.append(f'{arm.name}/seed_{seed}, {mode}: no {", ".join(lacks)}')
            else:
                arm.answers[mode][seed] = read_answers(run, mode)
        if any(seed in by_seed for by_seed in arm.answers.values()):
            _, shares = read_scalars(*map(str, training_logs(run / 'train'))).get(
                NO_SIGNAL, ([], []))
            if shares:
                arm.no_signal[seed] = 100 * float(np.mean(shares))
    if len(runs) < arm.about['seeds']:
        arm.missing.append(f'{arm.name}: {arm.about["seeds"] - len(runs)} of {arm.about["seeds"]} '
                           f'seeds have no folder')
    return arm


def read_answers(run: Path, mode: str) -> Answers:
    """Join the three files of a run, in an order that is the same for all runs.

    Raises:
        ValueError: A line lacks an entry, a number is not finite, or the files are about different
            samples.
    """
    keys: list[Key] = []
    merged: dict[Key, Row] = {}
    for kind, names in KINDS.items():
        path = run / f'{mode}.{kind}.jsonl'
        rows = list(read_jsonl(str(path)))
        for number, row in enumerate(rows, start=1):
            lacks = [name for name in ('image', 'question', *names) if name not in row]
            if lacks:
                raise ValueError(f'{path} should have {", ".join(lacks)} in each line, but line '
                                 f'{number} lacks it; evaluate the run again')
        found = number_samples((_scene(path, row['image']), row['question']) for row in rows)
        keys = keys or found
        check_same_scenes([(f'{mode}.samples.jsonl', keys), (str(path), found)])
        for key, row in zip(found, rows, strict=True):
            merged.setdefault(key, {}).update({name: row[name] for name in names})
    keys = sorted(keys)
    pairs = [[measure(merged[key]) or (0, 0) for key in keys] for measure in MEASURES.values()]
    columns = np.array(pairs, float)
    if not np.isfinite(columns).all():
        wrong = list(MEASURES)[np.argwhere(~np.isfinite(columns))[0][0]]
        raise ValueError(f'{run / mode}.*.jsonl should hold finite numbers, but {wrong} of a '
                         f'sample is not; evaluate the run again')
    above, below = columns[..., 0], columns[..., 1]
    names = list(MEASURES)
    if above[names.index('ranked')].mean() < 100 * _FEW_CAPTIONS:
        above[names.index('specificity')] = below[names.index('specificity')] = 0
    return Answers(keys, above, below)


def check_same_scenes(runs: Sequence[tuple[str, Answers | list[Key]]]) -> None:
    """Raise ValueError if one of the named runs is not about the samples of the first."""
    wanted, *others = [(name, run.keys if isinstance(run, Answers) else run) for name, run in runs]
    for name, keys in others:
        for has, more, lacks, less in ((*wanted, name, keys), (name, keys, *wanted)):
            if missing := sorted(set(more) - set(less)):
                raise ValueError(f'All runs of a study should answer the same scenes, but {lacks} '
                                 f'lacks {show_keys(missing)} of {has}; evaluate it again')


def describe_arm(folder: Path, arm: Arm, sets: Sequence[str]) -> dict[str, Any]:
    """The entry of an arm in :func:`analyze_study`."""
    seeds = sorted({seed for by_seed in arm.answers.values() for seed in by_seed})
    return dict(
        name=arm.name, **arm.about, missing=arm.missing,
        complete={mode: list(by_seed) for mode, by_seed in arm.answers.items()},
        logs={seed: [str(path.relative_to(folder)) for path in
                     training_logs(folder / arm.name / f'seed_{seed}/train')] for seed in seeds},
        no_signal=dict(t_interval(list(arm.no_signal.values())), values=arm.no_signal),
        numbers={mode: {name: _over_seeds(by_seed, name) for name in sets}
                 for mode, by_seed in arm.answers.items()})


def compare_arms(reference: Arm, arm: Arm, sets: Sequence[str]) -> dict[str, Any]:
    """A difference in :func:`analyze_study`: ``arm`` minus ``reference``, seed by seed."""
    seeds, numbers = {}, {}
    for mode in MODES:
        before, after = reference.answers[mode], arm.answers[mode]
        seeds[mode] = [seed for seed in after if seed in before]
        numbers[mode] = {name: paired_over_seeds(
            [before[seed].part(name) for seed in seeds[mode]],
            [after[seed].part(name) for seed in seeds[mode]]) for name in sets}
    no_signal = t_interval([share - reference.no_signal[seed]
                            for seed, share in arm.no_signal.items()
                            if seed in reference.no_signal])
    return dict(arm=arm.name, reference=reference.name, seeds=seeds, numbers=numbers,
                no_signal=no_signal)


def paired_over_seeds(before: Sequence[tuple[np.ndarray, np.ndarray]],
                      after: Sequence[tuple[np.ndarray, np.ndarray]]
                      ) -> dict[str, dict[str, float]]:
    """How much larger each measure is in the second of two arms.

    Args:
        before, after: Numerators and denominators (K, N) for S paired seeds, all with the same N
            samples in the same order.

    Returns:
        Measure, or :data:`LENGTH_CHANGE` (the reasoning length after over before, minus 1, in
        percent), -> :func:`t_interval` of the seeds' differences; those in :data:`TWO_LEVEL` also
        have ``scenes_low`` and ``scenes_high``, see the module. One pair has no interval.
    """
    names, pairs = [*MEASURES, LENGTH_CHANGE], len(before)
    if not pairs:
        return {name: t_interval([]) for name in names}
    sides = [tuple(np.concatenate(side) for side in zip(*arm, strict=True))
             for arm in (before, after)]
    observed = _changes(*(_ratios(side)[None] for side in sides), pairs)
    found = {name: t_interval(observed[0, :, column]) for column, name in enumerate(names)}
    if pairs > 1:
        # All seeds and both arms share the draws of scenes, which depend on N and the seed only.
        drawn = _changes(*(bootstrap_ratios(*side) for side in sides), pairs)
        for name, (low, high) in zip(names, seeds_and_scenes_interval(drawn), strict=True):
            if name in TWO_LEVEL:
                found[name].update(scenes_low=float(low), scenes_high=float(high))
    return found


def first_answers(folder: Path, study: Mapping[str, Any], names: tuple[str, str],
                  sets: Sequence[str] = ('look_alikes', 'many'), scenes: int = 4,
                  mode: str = 'sampled') -> list[tuple[Row, Row]]:
    """The answers of two arms to the first question about each of a set's first scenes.

    Returns:
        Pairs of lines of ReasonSegMetric, from the first seed that is complete in both arms, in
        the order of the first arm's file; empty if they share no seed.
    """
    complete = {arm['name']: arm['complete'][mode] for arm in study['arms']}
    shared = [seed for seed in complete.get(names[0], ()) if seed in complete.get(names[1], ())]
    if not shared:
        return []
    paths = [folder / name / f'seed_{shared[0]}' / f'{mode}.samples.jsonl' for name in names]
    rows = [dict(zip(number_samples((_scene(path, row['image']), row['question']) for row in some),
                     some, strict=True))
            for path in paths for some in [list(read_jsonl(str(path)))]]
    firsts = {key[0]: key for key in reversed(rows[0])}  # image -> its first question
    order = [key for key in rows[0] if firsts[key[0]] == key]
    return [(rows[0][key], rows[1][key]) for name in sets
            for key in [key for key in order if set_of(key) == name][:scenes]]


def set_of(key: Key) -> str:
    """The test set that a sample belongs to."""
    return key[0].split('/')[0]


def _scene(path: Path, image: str) -> str:
    """``SET/SPLIT/FILE``, which does not depend on where the data are stored."""
    parts = Path(image).parts
    if len(parts) < 3:
        raise ValueError(f'{path} should name images as .../SET/SPLIT/FILE, but got {image!r}')
    return '/'.join(parts[-3:])


def _ratios(side: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    above, below = (values.sum(axis=1) for values in side)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def _changes(before: np.ndarray, after: np.ndarray, pairs: int) -> np.ndarray:
    """(R, S * K) ratios of both arms -> (R, S, K + 1) differences, the length change last."""
    before, after = (side.reshape(len(side), pairs, -1) for side in (before, after))
    length = list(MEASURES).index(REASONING)
    a, b = before[..., length], after[..., length]
    percent = 100 * (np.divide(b, a, out=np.full_like(a, np.nan), where=a != 0) - 1)
    return np.concatenate([after - before, percent[..., None]], axis=-1)


def _over_seeds(by_seed: Mapping[int, Answers], name: str) -> dict[str, dict[str, Any]]:
    values = {seed: answers.values(name) for seed, answers in by_seed.items()}
    return {measure: dict(t_interval([row[column] for row in values.values()]),
                          values={seed: float(row[column]) for seed, row in values.items()})
            for column, measure in enumerate(MEASURES)}


def _read_about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path} should be JSON, but is not: {error}') from error
    rules = dict(title=lambda v: isinstance(v, str), seeds=lambda v: type(v) is int and v > 0,
                 compare_with=lambda v: isinstance(v, list) and all(isinstance(x, str) for x in v),
                 group=lambda v: v in GROUPS, trained=lambda v: isinstance(v, bool))
    about.setdefault('trained', True)
    for name, holds in rules.items():
        if name not in about or not holds(about[name]):
            raise ValueError(f'{path} should have a title, a positive number of seeds, names of '
                             f'arms as compare_with, whether it is trained, and a group of '
                             f'{", ".join(GROUPS)}, but {name} is {about.get(name)!r}')
    return {name: about[name] for name in rules}


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)
