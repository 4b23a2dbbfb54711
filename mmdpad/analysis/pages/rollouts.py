# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The most informative groups of one training step, as text or as a page.

Control characters in model text are replaced, so that it cannot control a terminal; in HTML the
text is also escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

import numpy as np

from mmdpad.utils import read_jsonl
from mmdpad.visualization.text_panel import printable

from .html import as_jpeg, page, picture, safe

_KEYS = {'iter', 'group', 'id', 'image', 'question', 'response', 'failure', 'truncated', 'rewards',
         'total', 'advantage', 'signals'}
_THUMBNAIL = 320  # pixels of an embedded image's longer side


@dataclass(frozen=True)
class Group:
    """The lines for one prompt's responses, see :class:`RolloutLogHook`; best first."""

    rows: list[dict[str, Any]]

    @property
    def mean(self) -> float:
        """Mean total reward."""
        return fmean(row['total'] for row in self.rows)

    @property
    def spread(self) -> float:
        """Standard deviation of the total rewards (population, not sample)."""
        return pstdev(row['total'] for row in self.rows)

    @property
    def title(self) -> str:
        first = self.rows[0]
        about = ', '.join(map(str, filter(None, (first['id'], self.task))))
        return printable(f'Group {first["group"]} ({about}): mean {self.mean:.3f}, spread '
                         f'{self.spread:.3f}')

    @property
    def task(self) -> str | None:
        """The prompt's task, if the log names it."""
        return self.rows[0].get('task')


def read_step(path: str, iteration: int | None = None,
              task: str | None = None) -> tuple[int, list[Group]]:
    """Read one iteration of a rollout log.

    Args:
        path: A log written by :class:`RolloutLogHook`.
        iteration: The iteration, from 1; None for the last.
        task: Read the groups of this task only.

    Returns:
        The iteration (with a task, one with its prompts), and its groups in file order.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a rollout log, is empty, or lacks this iteration or task.
    """
    seen: list[int] = []
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in of_task(read_rollouts(path), task):
        if not seen or row['iter'] != seen[-1]:
            seen.append(row['iter'])
            if iteration is None:
                groups = {}
        if iteration in (None, row['iter']):
            groups.setdefault(row['group'], []).append(row)
    if not seen:
        raise ValueError(f'{path} holds no rollouts; the first ones are written after one '
                         f'`interval` of RolloutLogHook')
    if not groups:
        raise ValueError(f'{path} has no iteration {iteration}: it holds {len(seen)} iteration(s) '
                         f'from {seen[0]} to {seen[-1]}')
    return (seen[-1] if iteration is None else iteration,
            [Group(sorted(rows, key=lambda row: -row['total'])) for rows in groups.values()])


def find_iterations(logs: Sequence[str]) -> dict[int, str]:
    """Iteration, ascending -> the log that contains it.

    Args:
        logs: The logs of one run, oldest first; after a resume, the later log takes over from its
            first iteration, as in :func:`mmdpad.visualization.curves.read_scalars`.

    Raises:
        FileNotFoundError, ValueError: As in :func:`read_step`.
    """
    found: dict[int, str] = {}
    for log in logs:
        own = dict.fromkeys((row['iter'] for row in read_rollouts(log)), log)
        found = {iteration: before for iteration, before in found.items()
                 if iteration < min(own, default=math.inf)} | own
    return dict(sorted(found.items()))


def read_rollouts(path: str) -> Iterator[dict[str, Any]]:
    """The lines of a log written by :class:`RolloutLogHook`.

    Raises:
        FileNotFoundError, ValueError: There is no such file; a line is of another kind.
    """
    for row in read_jsonl(path):
        if not row.keys() >= _KEYS:
            raise ValueError(f'{path} should be a rollouts.jsonl of RolloutLogHook, but has a line '
                             f'without {sorted(_KEYS - row.keys())}')
        yield row


def of_task(rows: Iterable[dict[str, Any]], task: str | None) -> Iterator[dict[str, Any]]:
    """The lines about prompts of a task; all of them without one.

    Raises:
        ValueError: There are none.
    """
    seen: dict[str, None] = {}
    found = False
    for row in rows:
        seen[str(row.get('task'))] = None
        if task in (None, row.get('task')):
            found = True
            yield row
    if not found and seen:
        raise ValueError(f'`task` should be one of those in the log ({", ".join(seen)}), but got '
                         f'{task!r}; correct it')


def notable_groups(groups: list[Group], top: int) -> dict[str, list[Group]]:
    """The ``top`` groups of three kinds; a group may appear in several.

    Returns:
        'Best' and 'Worst' by mean total reward, 'Most contested' by its spread within the group.
    """
    return {
        'Best': sorted(groups, key=lambda group: -group.mean)[:top],
        'Worst': sorted(groups, key=lambda group: group.mean)[:top],
        'Most contested': sorted(groups, key=lambda group: -group.spread)[:top],
    }


def rollouts_as_text(iteration: int, sections: dict[str, list[Group]]) -> str:
    """The result of :func:`notable_groups`, formatted for a terminal."""
    lines = [f'Iteration {iteration}']
    for heading, groups in sections.items():
        lines += ['', f'==== {heading} ====']
        for group in groups:
            lines += ['', group.title]
            lines += [f'  {key}: {printable(str(group.rows[0][key]))}'
                      for key in ('question', 'image')]
            for row in group.rows:
                numbers = [f'{name} {value}' for name, value in _columns(row).items()]
                lines.append('  ' + '  '.join(numbers + _flags(row)))
                for about, text in _turns(row):
                    lines += [f'    {printable(about)}'] * bool(about)
                    lines += [f'    | {line}' for line in printable(text).split('\n')]
    return '\n'.join(lines) + '\n'


def rollouts_as_html(iteration: int, sections: dict[str, list[Group]],
                     read_image: Callable[[str], np.ndarray | None]) -> str:
    """The result of :func:`notable_groups`, as a self-contained page.

    Args:
        iteration, sections: What to show.
        read_image: Path of an image -> (H, W, 3) uint8 RGB, or None if it cannot be read.
    """
    return page(f'Rollouts of iteration {iteration}', [
        f'<h1>Iteration {iteration}</h1>', sections_as_html(sections, read_image)])


def sections_as_html(sections: dict[str, list[Group]],
                     read_image: Callable[[str], np.ndarray | None],
                     shown: int | None = None) -> str:
    """The result of :func:`notable_groups`, as part of a page; for the arguments see
    :func:`rollouts_as_html`. A group with more than ``shown`` responses (None: no limit) shows
    only its best and worst ones."""
    parts = []
    for heading, groups in sections.items():
        parts.append(f'<h3>{safe(heading)}</h3>')
        for group in groups:
            path = group.rows[0]['image']
            parts.append(_section(group, None if path is None else read_image(path), shown))
    return '\n'.join(parts)


def _section(group: Group, image: np.ndarray | None, shown: int | None) -> str:
    """A group's image beside its question and its responses, best first."""
    first, rows = group.rows[0], group.rows
    parts = [_response(row) for row in rows]
    if shown is not None and len(rows) > shown:
        parts[shown - shown // 2:len(rows) - shown // 2] = [
            f'<p class="faint">{len(rows) - shown} responses between these are not shown.</p>']
    return (f'<section>{_picture(image, first["image"])}<div><h4>{safe(group.title)}</h4>'
            f'<p>{safe(first["question"])}</p>\n{"".join(parts)}</div></section>')


def _response(row: dict[str, Any]) -> str:
    """A response's numbers, and its text below them."""
    numbers = ''.join(f'<span><span class="faint">{safe(name)}</span>{safe(value)}</span>'
                      for name, value in _columns(row).items())
    flags = ''.join(f'<span class="flag">{safe(flag)}</span>' for flag in _flags(row))
    texts = ''.join(f'<p class="faint">{safe(about)}</p>' * bool(about) + f'<pre>{safe(text)}</pre>'
                    for about, text in _turns(row))
    return f'<div class="response">{numbers}{flags}{texts}</div>\n'


def _turns(row: dict[str, Any]) -> list[tuple[str, str]]:
    """What a policy wrote, turn by turn, and what is said of each turn before it."""
    talk = row.get('conversation')
    if talk is None:
        return [('', row['response'])]
    titles = [f'turn {number}' for number in range(1, len(talk['turns']) + 1)]
    about = [*(f'shown {box}' for box in talk['crops']),
             *(f'bad call: {reason}' for reason in talk['bad_calls']),
             f'ended by: {talk["ended_by"]}']
    titles[0] = f'{titles[0]} ({"; ".join(about)})'
    return list(zip(titles, talk['turns'], strict=True))


def _columns(row: dict[str, Any]) -> dict[str, str]:
    """The numbers of a response by name, without terms of other tasks; '-' for a missing signal."""
    rewards = {name: value for name, value in row['rewards'].items() if value is not None}
    values = {'total': row['total'], 'advantage': row['advantage'], **rewards, **row['signals']}
    return {printable(name): '-' if value is None else f'{value:.3f}'
            for name, value in values.items()}


def _flags(row: dict[str, Any]) -> list[str]:
    return (['truncated'] if row['truncated'] else []) + (
        [printable(f'unusable answer: {row["failure"]}')] if row['failure'] else [])


def _picture(image: np.ndarray | None, path: str | None) -> str:
    if image is None:
        return f'<div class="flag">The image cannot be read: {safe(path)}</div>'
    return f'<div>{picture(as_jpeg(image, _THUMBNAIL), "jpeg", str(path))}</div>'
