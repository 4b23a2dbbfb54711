# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The groups of one training step worth reading, as text or as a page.

Model text is shown with control characters replaced, so that it cannot steer a terminal, and
escaped in HTML.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

import numpy as np

from mmdpad.utils import read_jsonl

from .html import as_jpeg, data_url, safe
from .text_panel import printable

_KEYS = {'iter', 'group', 'id', 'image', 'question', 'response', 'failure', 'truncated', 'rewards',
         'total', 'advantage', 'signals'}
_THUMBNAIL = 320  # pixels of an embedded image's longer side
_STYLE = '''
body { font: 15px sans-serif; margin: 2em; color: #191919 }
section { border-top: 1px solid #bbb; padding: 1em 0; display: flex; flex-wrap: wrap; gap: 1.5em }
section > div { max-width: 100% }
section > div:last-child { flex: 1 1 30em; min-width: 0; overflow-x: auto }
table { border-collapse: collapse }
th, td { padding: .2em .7em; text-align: right; font-size: 13px; border: 1px solid #ddd }
td.text { text-align: left; background: #f4f4f4; padding-bottom: 1em }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 }
.flag { color: #b00020 }
'''


@dataclass(frozen=True)
class Group:
    """The lines of one prompt's responses, see :class:`RolloutLogHook`; the best comes first."""

    rows: list[dict[str, Any]]

    @property
    def mean(self) -> float:
        """Mean total reward."""
        return fmean(row['total'] for row in self.rows)

    @property
    def spread(self) -> float:
        """Standard deviation of the total rewards (over the group as a whole, not a sample)."""
        return pstdev(row['total'] for row in self.rows)

    @property
    def title(self) -> str:
        first = self.rows[0]
        return printable(f'Group {first["group"]} ({first["id"]}): mean {self.mean:.3f}, spread '
                         f'{self.spread:.3f}')


def read_step(path: str, iteration: int | None = None) -> tuple[int, list[Group]]:
    """One iteration of a rollout log.

    Args:
        path: A file of :class:`RolloutLogHook`.
        iteration: Which one, from 1; None for the last.

    Returns:
        The iteration, and its groups in the order of the file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is no rollout log, is empty, or lacks this iteration.
    """
    seen: list[int] = []
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in read_jsonl(path):
        if not _KEYS <= row.keys():
            raise ValueError(f'{path} should be a rollouts.jsonl of RolloutLogHook, but has a line '
                             f'without {sorted(_KEYS - row.keys())}')
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


def notable_groups(groups: list[Group], top: int) -> dict[str, list[Group]]:
    """The ``top`` groups of three kinds; a group may be of several.

    Returns:
        'Best' and 'Worst' by mean total reward, 'Most contested' by its spread within the group.
    """
    return {
        'Best': sorted(groups, key=lambda group: -group.mean)[:top],
        'Worst': sorted(groups, key=lambda group: group.mean)[:top],
        'Most contested': sorted(groups, key=lambda group: -group.spread)[:top],
    }


def rollouts_as_text(iteration: int, sections: dict[str, list[Group]]) -> str:
    """What :func:`notable_groups` found, for a terminal."""
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
                lines += [f'    | {line}' for line in printable(row['response']).split('\n')]
    return '\n'.join(lines) + '\n'


def rollouts_as_html(iteration: int, sections: dict[str, list[Group]],
                     read_image: Callable[[str], np.ndarray | None]) -> str:
    """What :func:`notable_groups` found, as a page that needs no other file.

    Args:
        iteration, sections: What to show.
        read_image: Path of an image -> (H, W, 3) uint8 RGB, or None if it cannot be read.
    """
    parts = [f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
             f'<meta name="viewport" content="width=device-width, initial-scale=1">'
             f'<title>Rollouts of iteration {iteration}</title><style>{_STYLE}</style></head>'
             f'<body><h1>Iteration {iteration}</h1>']
    for heading, groups in sections.items():
        parts.append(f'<h2>{heading}</h2>')
        for group in groups:
            path = group.rows[0]['image']
            parts.append(_section(group, None if path is None else read_image(path)))
    return '\n'.join([*parts, '</body></html>\n'])


def _section(group: Group, image: np.ndarray | None) -> str:
    """A group's image beside its question and a table: numbers, and below them the response."""
    first, columns = group.rows[0], _columns(group.rows[0])
    header = ''.join(f'<th>{safe(name).replace("_", "_<wbr>")}</th>' for name in columns)
    table = []
    for row in group.rows:
        numbers = ''.join(f'<td>{safe(value)}</td>' for value in _columns(row).values())
        flags = ''.join(f'<span class="flag">{safe(flag)}</span> ' for flag in _flags(row))
        table.append(f'<tr>{numbers}</tr>\n<tr><td class="text" colspan="{len(columns)}">{flags}'
                     f'<pre>{safe(row["response"])}</pre></td></tr>\n')
    return (f'<section>{_picture(image, safe(first["image"]))}<div><h3>{safe(group.title)}</h3>'
            f'<p>{safe(first["question"])}</p>\n<table><tr>{header}</tr>\n{"".join(table)}</table>'
            f'</div></section>')


def _columns(row: dict[str, Any]) -> dict[str, str]:
    """The numbers of a response by name; '-' for a signal that it does not have."""
    values = {'total': row['total'], 'advantage': row['advantage'], **row['rewards'],
              **row['signals']}
    return {printable(name): '-' if value is None else f'{value:.3f}'
            for name, value in values.items()}


def _flags(row: dict[str, Any]) -> list[str]:
    return (['truncated'] if row['truncated'] else []) + (
        [printable(f'unusable answer: {row["failure"]}')] if row['failure'] else [])


def _picture(image: np.ndarray | None, name: str) -> str:
    """An img element with the image in it; ``name`` is escaped already."""
    if image is None:
        return f'<div class="flag">The image cannot be read: {name}</div>'
    source = data_url(as_jpeg(image, _THUMBNAIL), 'jpeg')
    return f'<div><img alt="{name}" title="{name}" src="{source}"></div>'
