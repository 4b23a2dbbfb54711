# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Leaves out questions that a policy always or never answers right."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmengine.logging import print_log

from mmdpad.prompts import normalize_question
from mmdpad.utils import read_jsonl
from mmdpad.utils.number_checks import check_number

from .errors import DatasetError

Key = tuple[str, str]
_DEFAULTS = dict(min=0.0, max=1.0)


def question_key(image: Any, question: str) -> Key:
    """What identifies a question: its image's ``img_id``, and its text as the policy reads it."""
    return str(image), normalize_question(question)


def check_difficulty(difficulty: Mapping[str, Any]) -> None:
    """Check the argument ``difficulty`` of a data set.

    Raises:
        ValueError: It has no ``file``, an unknown key, or bounds that are no range of shares.
    """
    if 'file' not in difficulty or (difficulty.keys() - {'file', *_DEFAULTS}):
        raise ValueError(f'`difficulty` should have `file`, and optionally `min` and `max`, but '
                         f'got {sorted(difficulty)}; correct it')
    low, high = (check_number(f'difficulty.{name}', difficulty.get(name, default), 'in [0, 1]',
                              lambda share: 0 <= share <= 1) for name, default in _DEFAULTS.items())
    if low > high:
        raise ValueError(f'`difficulty` should have `min` <= `max`, but got {low} and {high}; '
                         f'correct them')


def check_told_apart(items: Iterable[Mapping[str, Any]]) -> None:
    """Check that no two questions share a pass rate without being the same: one about another
    image, as of two data sets that number their images alike, or of another task.

    Raises:
        DatasetError: Two of them do.
    """
    seen: dict[Key, tuple[Any, Any]] = {}
    for item in items:
        about = item.get('img_path'), item.get('task')
        if (first := seen.setdefault(_key(item), about)) != about:
            raise DatasetError(
                f'Questions should differ in text or in the `img_id` of their images, but '
                f'{item.get("question")!r} is asked about {first[0]} (task {first[1]}) and '
                f'{about[0]} (task {about[1]}) under `img_id` {item.get("img_id")!r}; estimate '
                f'each data set, and each task, by itself', 'pass rates')


def read_pass_rates(path: str, items: Sequence[Mapping[str, Any]]) -> list[float]:
    """The pass rate of each item, in [0, 1], from the JSON lines of ``mmdpad run
    estimate_difficulty``.

    Raises:
        DatasetError: The file cannot be read, or has no pass rate of an item, or two.
    """
    rates: dict[Key, float] = {}
    try:
        for row in read_jsonl(path):
            key, rate = question_key(row['id'], row['question']), float(row['pass_rate'])
            if not 0 <= rate <= 1 or rates.setdefault(key, rate) != rate:
                raise ValueError(f'{row["question"]!r} about image {row["id"]!r} should have one '
                                 f'pass rate, in [0, 1], but has '
                                 f'{sorted({rate, rates.get(key, rate)})}')
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f'{path!r} should be a file of `mmdpad run estimate_difficulty`, but cannot be read: '
            f'{type(error).__name__}: {error}; correct the path, or write it anew', 'pass rates'
        ) from error
    missing = [item for item in items if _key(item) not in rates]
    if missing:
        raise DatasetError(
            f'{path} should have the pass rate of each question, but has none of {len(missing)}, '
            f'such as {missing[0].get("question")!r} about {missing[0]["img_path"]}; write it anew '
            f'with `mmdpad run estimate_difficulty`', 'pass rates')
    return [rates[_key(item)] for item in items]


def keep_by_difficulty(items: list[dict], difficulty: Mapping[str, Any],
                       where: str) -> list[dict]:
    """The items whose pass rate is within the bounds, in their order; the log has the counts.

    Args:
        items: Of a data set, with ``img_id`` and ``question``.
        difficulty: ``file``, the JSON lines of ``mmdpad run estimate_difficulty``; ``min`` and
            ``max``, the smallest and the largest pass rate, in [0, 1].
        where: The data set, for messages.

    Raises:
        DatasetError: See :func:`read_pass_rates`, or no item is left.
    """
    bounds = _DEFAULTS | dict(difficulty)
    found = read_pass_rates(difficulty['file'], items)
    kept = [item for item, rate in zip(items, found, strict=True)
            if bounds['min'] <= rate <= bounds['max']]
    if not kept:
        raise DatasetError(
            f'{where} has no question with a pass rate in [{bounds["min"]}, {bounds["max"]}]; '
            f'widen `difficulty`', 'pass rates')
    easy, hard = (sum(map(test, found)) for test in (
        lambda rate: rate > bounds['max'], lambda rate: rate < bounds['min']))
    print_log(f'{len(kept)} of {len(items)} questions of {where} are kept by `difficulty`: {easy} '
              f'are answered right too often, {hard} too rarely', logger='current',
              level=logging.INFO)
    return kept


def pass_rates(rows: Iterable[Mapping[str, Any]], term: str, at_least: float) -> list[dict]:
    """The share of right responses to each question.

    Args:
        rows: One for each response, as :class:`RolloutLogHook` writes them.
        term: The reward term that tells a right response.
        at_least: The smallest value of a right one.

    Returns:
        For each question, in the order of its first response: ``id``, ``image``, ``question``,
        ``task``, ``responses``, ``passes``, ``pass_rate`` and ``reward``, the mean sum of rewards.
        Questions that the term does not score are left out.

    Raises:
        ValueError: No response has the term.
    """
    found: dict[Key, dict] = {}
    names: set[str] = set()
    for row in rows:
        names |= row['rewards'].keys()
        value = row['rewards'].get(term)
        if value is None:
            continue
        about = {name: row[name] for name in ('id', 'image', 'question', 'task')}
        entry = found.setdefault(question_key(row['id'], row['question']),
                                 dict(about, responses=0, passes=0, reward=0.0))
        entry['responses'] += 1
        entry['passes'] += value >= at_least
        entry['reward'] += row['total']
    if not found:
        raise ValueError(f'`--term` should be a reward term of the run ({", ".join(sorted(names))}'
                         f'), but got {term!r}; correct it')
    return [dict(entry, pass_rate=entry['passes'] / entry['responses'],
                 reward=entry['reward'] / entry['responses']) for entry in found.values()]


def _key(item: Mapping[str, Any]) -> Key:
    return question_key(item.get('img_id'), item.get('question', ''))
