# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Result files: JSON lines about samples, and beside them a JSON file of what they add up to."""

from __future__ import annotations

import json
import os.path as osp
from collections.abc import Sequence
from typing import Any

from mmdpad.utils import jsonable, write_atomically, write_jsonl

from .summary import BOOTSTRAP, Row, find_intervals, summarise

UNKNOWN = 'unknown: nothing told where the answers come from (a run with ProvenanceHook does)'


def summarise_result(rows: Sequence[Row], protocol: dict[str, Any],
                     provenance: dict[str, Any] | None) -> dict[str, Any]:
    """What the JSON file of a result holds but for ``samples``.

    Args:
        rows: Of :func:`score_sample`, at least one.
        protocol: Switches on which the numbers hang.
        provenance: Where they come from, see :mod:`mmdpad.utils.provenance`; None if unknown.

    Returns:
        ``protocol``; ``metrics``, see :func:`summarise`; ``intervals``, [low, high] by the name of
        a metric; ``bootstrap``, how these were found; ``provenance``.
    """
    return dict(protocol=protocol, metrics=summarise(rows), intervals=find_intervals(rows),
                bootstrap=BOOTSTRAP, provenance=UNKNOWN if provenance is None else provenance)


def write_result(path: str, rows: Sequence[Row], summary: dict[str, Any]) -> str:
    """Write both files; names that are taken get a number.

    Args:
        path: Of the lines; the other file has ``.json`` in place of its extension.
        rows, summary: See :func:`summarise_result`; ``samples``, the name of the file with the
            lines, is added.

    Returns:
        Where the lines are.
    """
    where = write_jsonl(path, rows)
    summary = dict(summary, samples=osp.basename(where))
    write_atomically(osp.splitext(where)[0] + '.json',
                     json.dumps(jsonable(summary), indent=2).encode())
    return where


def describe_results(metrics: dict[str, float], evaluated: Sequence[Any],
                     path: str) -> dict[str, Any]:
    """All numbers of an evaluation, and what each :class:`ReasonSegMetric` says of its own.

    Args:
        metrics: What an evaluator gave, with prefixes.
        evaluated: Its metrics; those without a ``summary`` are left out.
        path: The file that this is for.

    Returns:
        ``metrics``; ``results``: prefix -> a metric's ``summary`` without its ``metrics``,
        ``samples`` relative to the file's folder.
    """
    results = {}
    for metric in evaluated:
        summary = dict(getattr(metric, 'summary', None) or {})
        if summary.pop('metrics', None) is None:
            continue
        if summary['samples'] is not None:
            summary['samples'] = osp.relpath(summary['samples'], osp.dirname(osp.abspath(path)))
        results[metric.prefix] = summary
    return dict(metrics=metrics, results=results)


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Rows by ``index``, whatever order a sampler had; as they are where that tells no order."""
    indices = {row['index'] for row in rows}
    if None in indices or len(indices) < len(rows):
        return list(rows)
    return sorted(rows, key=lambda row: row['index'])


def drop_padding(rows: Sequence[Row], size: int) -> list[Row]:
    """As many rows as a data set has items, without those that a sampler repeated so that all
    processes have as many.

    Of rows above that number, repetitions of an item go first, whatever order the sampler had;
    then, where rows tell no ``index``, the last ones (mmengine's samplers pad at the end).
    """
    surplus, kept, seen = len(rows) - size, [], set()
    for row in rows:
        item = (row['index'], row['id'], row['image'], row['question'])
        if surplus > 0 and row['index'] is not None and item in seen:
            surplus -= 1
            continue
        seen.add(item)
        kept.append(row)
    return kept[:size]
