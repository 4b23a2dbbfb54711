# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Compares results side by side: numbers with intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmdpad.evaluation.bootstrap import bootstrap_ratios, percentile_interval
from mmdpad.evaluation.measures import Column, Row
from mmdpad.evaluation.pairing import number_samples, show_keys
from mmdpad.evaluation.results import Result
from mmdpad.evaluation.summary import (
    KINDS,
    describe_bootstrap,
    find_intervals,
    kind_of,
    ratios,
    summarize,
)
from mmdpad.utils.markdown import markdown_table


def compare_results(results: Sequence[Result]) -> dict[str, Any]:
    """Compare results about the same samples, all of one metric
    (:data:`mmdpad.evaluation.summary.KINDS`).

    Samples are paired by id, question and, if a data set has duplicates, their order.

    Args:
        results: Two or more; differences are relative to the first.

    Returns:
        ``metric``, the name of the metric's class; ``results``: a dict with ``name``, ``metrics``,
        ``intervals``, ``protocol``, ``provenance`` (None if unknown) for each; ``differences``:
        ``name`` and ``metrics`` for each after the first, name of a number -> the result of
        :func:`paired_differences`; ``warnings``: why the numbers are not comparable, one sentence
        each; ``bootstrap``.

    Raises:
        ValueError: The results are about different samples, or of different metrics.
    """
    first, *others = results
    kind = kind_of(first.rows)
    for other in others:
        if (found := kind_of(other.rows)) is not kind:
            raise ValueError(f'Results should be of one metric, but {first.name!r} is of '
                             f'{kind.metric}, and {other.name!r} of {found.metric}; compare each '
                             f'with its own kind')
    paired = [first.rows, *(pair_rows(first, other) for other in others)]
    return dict(
        metric=kind.metric,
        results=[dict(name=result.name, metrics=summarize(rows), intervals=find_intervals(rows),
                      protocol=result.summary.get('protocol'), provenance=_known(result))
                 for result, rows in zip(results, paired, strict=True)],
        differences=[dict(name=other.name, metrics=paired_differences(first.rows, rows))
                     for other, rows in zip(others, paired[1:], strict=True)],
        warnings=[warning for other in others for warning in find_obstacles(first, other)],
        bootstrap=describe_bootstrap(kind))


def pair_rows(first: Result, other: Result) -> list[Row]:
    """The rows of ``other`` in the order of ``first``.

    Raises:
        ValueError: One of them has samples that the other lacks.
    """
    wanted, given = (number_samples((row['id'], row['question']) for row in result.rows)
                     for result in (first, other))
    rows = dict(zip(given, other.rows, strict=True))
    lacks = [f'{name!r} lacks {show_keys(missing)} of {has!r}' for name, has, missing in (
        (other.name, first.name, [key for key in wanted if key not in rows]),
        (first.name, other.name, sorted(rows.keys() - set(wanted)))) if missing]
    if lacks:
        raise ValueError(f'Results should be about the same samples, but {"; ".join(lacks)}; '
                         f'evaluate both on one data set')
    return [rows[key] for key in wanted]


def paired_differences(first: Sequence[Row], second: Sequence[Row]) -> dict[str, dict[str, float]]:
    """How much larger each metric is in the second of two results about the same samples.

    Returns:
        Metric -> ``difference``; ``low`` and ``high``, its 95 % bootstrap interval over samples,
        or images with all their questions, that are resampled identically for both; and
        ``other_side``, the share of draws in which the difference is zero or has the other sign (1
        if it is zero itself). NaN if no draw has the metric, such as cIoU if all unions are empty.
        Metrics that are no ratio of sums, such as ``macro_f1``, are left out.
    """
    (names, *a), (other_names, *b) = ratios(first), ratios(second)
    shared = [name for name in names if name in other_names]
    kept, others = [names.index(n) for n in shared], [other_names.index(n) for n in shared]
    draws = bootstrap_ratios(*b)[:, others] - bootstrap_ratios(*a)[:, kept]
    before, after = summarize(first), summarize(second)
    found = {}
    for name, values, (low, high) in zip(shared, draws.T, percentile_interval(draws),
                                         strict=True):
        difference = after[name] - before[name]
        known = values[~np.isnan(values)]
        other_side = float(np.mean(known * np.sign(difference) <= 0)) if known.size else np.nan
        found[name] = dict(difference=difference, low=float(low), high=float(high),
                           other_side=other_side)
    return found


def find_obstacles(first: Result, other: Result) -> list[str]:
    """Sentences about differences in protocol and data between two results."""
    found = []
    for what, a, b in (('protocols', *(r.summary.get('protocol') for r in (first, other))),
                       ('data', *((_known(r) or {}).get('data') for r in (first, other)))):
        names = f'{what} of {first.name!r} and {other.name!r}'
        if a is None or b is None:
            found.append(f'{names} cannot be compared: one is unknown')
            continue
        a, b = _flat(a), _flat(b)
        differing = [f'{key} {a.get(key, "unknown")} and {b.get(key, "unknown")}'
                     for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
        if differing:
            found.append(f'{names} differ: {"; ".join(differing)}')
    return found


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """A Markdown page: warnings, the table of results, the table of differences, and the origin of
    each result."""
    results = comparison['results']
    kind = next(kind for kind in KINDS if kind.metric == comparison['metric'])
    columns = {name: column for name, column in kind.columns.items()
               if any(name in result['metrics'] for result in results)}
    titles = [column.title for column in columns.values()]
    parts = [f'**Warning:** {warning}.' for warning in comparison['warnings']]
    parts.append(markdown_table(['result', 'n', *titles], [
        [result['name'], _count(result['metrics']),
         *(_cell(column, result['metrics'].get(name), result['intervals'].get(name))
           for name, column in columns.items())] for result in results]))
    parts.append(f'In brackets: {100 * comparison["bootstrap"]["level"]:.0f} % bootstrap intervals '
                 f'over {kind.unit}. {kind.units}')
    parts.append(f'Differences to {results[0]["name"]}, on the same samples; p is the share of '
                 f'draws in which the difference is zero or has the other sign:')
    parts.append(markdown_table(['result', *titles], [
        [other['name'], *(_difference(column, other['metrics'].get(name))
                          for name, column in columns.items())]
        for other in comparison['differences']]))
    parts.append('\n'.join(f'- {result["name"]}: {_origin(result["provenance"])}'
                           for result in results))
    return '\n\n'.join(parts) + '\n'


def _known(result: Result) -> dict[str, Any] | None:
    provenance = result.summary.get('provenance')
    return provenance if isinstance(provenance, dict) else None


def _flat(nested: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Flatten nested dicts, with keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat.update(_flat(value, f'{prefix}{key}.') if isinstance(value, Mapping)
                    else {f'{prefix}{key}': value})
    return flat


def _count(metrics: Mapping[str, float]) -> str:
    nothing = metrics.get('n_no_target')
    return f'{metrics["n"]}' + (f' ({nothing} without a target)' if nothing else '')


def _cell(column: Column, value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return '-'
    number, *ends = (f'{one:.{column.digits}f}' for one in (value, *(interval or ())))
    return f'{number} [{", ".join(ends)}]' if ends else number


def _difference(column: Column, found: Mapping[str, float] | None) -> str:
    if found is None:
        return '-'
    value, low, high = (f'{found[key]:+.{column.digits}f}' for key in ('difference', 'low', 'high'))
    return f'{value} [{low}, {high}], p {found["other_side"]:.3f}'


def _origin(provenance: Mapping[str, Any] | None) -> str:
    """One line: the checkpoint, the data set and the package versions."""
    if provenance is None:
        return 'provenance unknown'
    hashes = {**provenance.get('weights', {}), 'config': provenance.get('config'),
              'data': provenance.get('data', {}).get('sha256')}
    shown = [f'checkpoint {provenance.get("checkpoint")}',
             f'data of {provenance.get("data_root")}',
             *(f'{name} {value[:12]}' for name, value in hashes.items() if value),
             *(f'{name} {provenance.get("versions", {}).get(name)}'
               for name in ('mmdpad', 'torch', 'transformers')),
             str(provenance.get('device'))]
    return ', '.join(shown)
