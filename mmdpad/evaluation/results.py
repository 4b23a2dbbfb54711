# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Result files: JSON lines about samples, and next to them a JSON file with the summary."""

from __future__ import annotations

import json
import os.path as osp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mmdpad.utils import jsonable, read_jsonl, unique_path, write_atomically, write_jsonl

from .measures import Row
from .provenance import UNKNOWN
from .summary import (
    METRICS,
    describe_bootstrap,
    find_intervals,
    kind_of,
    kind_of_summary,
    summarize,
)


@dataclass(frozen=True)
class Result:
    """A result read back.

    Attributes:
        name: As requested.
        rows: Its samples.
        summary: See :func:`summarize_result`; empty if there are only lines.
    """
    name: str
    rows: list[Row]
    summary: dict[str, Any]


def summarize_result(rows: Sequence[Row], protocol: dict[str, Any],
                     provenance: dict[str, Any] | None) -> dict[str, Any]:
    """The content of a result's JSON file, except ``samples``.

    Args:
        rows: Of one of :data:`mmdpad.evaluation.summary.KINDS`, at least one.
        protocol: Options on which the numbers depend.
        provenance: Where they come from, see :mod:`mmdpad.evaluation.provenance`; None if unknown.

    Returns:
        ``protocol``; ``metrics``, see :func:`summarize`; ``intervals``, [low, high] by the name of
        a metric; ``bootstrap``, how these were found; ``tables`` of the kind; ``provenance``.
    """
    kind = kind_of(rows)
    return dict(protocol=protocol, metrics=summarize(rows), intervals=find_intervals(rows),
                bootstrap=describe_bootstrap(kind), **kind.tables(rows),
                provenance=UNKNOWN if provenance is None else provenance)


def write_result(path: str, rows: Sequence[Row], summary: dict[str, Any]) -> str:
    """Write both files; if either name is taken, the same number is added to both.

    Args:
        path: Of the lines; the other file has the extension ``.json``.
        rows, summary: See :func:`summarize_result`; ``samples``, the name of the file with the
            lines, is added.

    Returns:
        Where the lines are.
    """
    where = write_jsonl(unique_path(path, '.json'), rows)
    summary = dict(summary, samples=osp.basename(where))
    write_atomically(osp.splitext(where)[0] + '.json',
                     json.dumps(jsonable(summary), indent=2).encode())
    return where


def read_result(path: str) -> Result:
    """Read a result from either of its files, from a file of ``tools/test.py --out``, or the newest
    result below a folder.

    Raises:
        ValueError: There is no result, its lines were not written, or they are not those of a
            result.
    """
    place = find_newest_result(path) if Path(path).is_dir() else Path(path)
    if not place.is_file():
        raise ValueError(f'{path!r} should be a result (.json or .jsonl) or a folder with results, '
                         f'but does not exist')
    if place.suffix == '.jsonl':
        lines, beside = place, place.with_suffix('.json')
        summary = _read_summary(beside) if beside.is_file() else None
        summary = summary if summary and summary['samples'] == lines.name else {}
    else:
        summary = _read_summary(place)
        if not summary or summary['samples'] is None:
            raise ValueError(f'{place} should name the lines of one result as its `samples`; name '
                             f'the file that {METRICS} wrote')
        lines = place.parent / summary['samples']
    rows = list(read_jsonl(str(lines)))
    if not rows:
        raise ValueError(f'{lines} should hold lines of {METRICS}, but is empty')
    try:
        kind = kind_of(rows)
    except ValueError as error:
        raise ValueError(f'{lines}: {error}') from error
    for number, row in enumerate(rows, start=1):
        missing = [name for name in kind.needed if name not in row]
        if missing:
            raise ValueError(f'{lines} should hold lines of {kind.metric}, but line {number} '
                             f'lacks {", ".join(missing)}')
    return Result(path, rows, summary)


def find_newest_result(folder: str) -> Path:
    """The newest summary below a folder.

    Raises:
        ValueError: There is none, or beside it are results of other metrics or data sets, as of a
            test of several.
    """
    found = find_summaries(folder)
    if not found:
        raise ValueError(f'{folder!r} should hold a result of {METRICS} (NAME.json beside '
                         f'NAME.jsonl), but holds none')
    newest = list(found)[-1]
    several = newest_of_each({path: summary for path, summary in found.items()
                              if path.parent == newest.parent and kind_of_summary(summary)})
    if len(several) > 1:
        names = ', '.join(path.name for path in several)
        raise ValueError(f'{folder!r} should hold results of one metric about one data set, but '
                         f'the newest ones in {newest.parent} are {names}; name one of these files')
    return newest


def newest_of_each(found: Mapping[Path, Mapping[str, Any]]) -> list[Path]:
    """Of summaries, oldest first, the newest of each metric and data set."""
    return list({(kind_of_summary(summary), summary.get('dataset')): path
                 for path, summary in found.items()}.values())


def find_summaries(folder: str) -> dict[Path, dict[str, Any]]:
    """All results below a folder, oldest first: file -> content, see :func:`summarize_result`.
    The lines of ``NAME.json`` are next to it, in ``NAME.jsonl``."""
    found = {path: summary for path in Path(folder).rglob('*.json')
             if path.with_suffix('.jsonl').is_file() and (summary := _read_summary(path))}
    return dict(sorted(found.items(), key=lambda item: (item[0].stat().st_mtime_ns, item[0])))


def _read_summary(path: Path) -> dict[str, Any] | None:
    """A summary; for a file of :func:`describe_results`, its only one; None if it is neither."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except ValueError:
        return None
    results = content.get('results') if isinstance(content, dict) else None
    if isinstance(results, dict) and len(results) == 1:
        content = next(iter(results.values()))
    return content if isinstance(content, dict) and 'samples' in content else None


def describe_results(metrics: dict[str, float], evaluator: Any, path: str) -> dict[str, Any]:
    """All numbers of an evaluation, and the summary of each metric that writes a result.

    Args:
        metrics: The evaluator's numbers, with prefixes.
        evaluator: The evaluator; its metrics without a ``summary`` are left out.
        path: The file to be written.

    Returns:
        ``metrics``; ``results``: prefix -> a metric's ``summary`` without its ``metrics``,
        ``samples`` relative to the file's folder. With mmdet's ``MultiDatasetsEvaluator`` the
        prefix consists of the data set's and the metric's, as in the names of its numbers.
    """
    results = {}
    parts = getattr(evaluator, 'dataset_prefixes', ())
    for metric, part in zip_longest(evaluator.metrics, parts):
        summary = dict(getattr(metric, 'summary', None) or {})
        if summary.pop('metrics', None) is None:
            continue
        if summary['samples'] is not None:
            summary['samples'] = osp.relpath(summary['samples'], osp.dirname(osp.abspath(path)))
        results[f'{part}/{metric.prefix}' if part is not None else metric.prefix] = summary
    return dict(metrics=metrics, results=results)


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Rows sorted by ``index``, whatever the sampler's order; unchanged if rows lack an index."""
    indices = {row['index'] for row in rows}
    if None in indices or len(indices) < len(rows):
        return list(rows)
    return sorted(rows, key=lambda row: row['index'])
