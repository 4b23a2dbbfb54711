# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The numbers of a training run as parts of its page; missing parts are stated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from mmdpad.evaluation.measures import ResultKind
from mmdpad.evaluation.segmentation_summary import SEGMENTATION
from mmdpad.evaluation.summary import KINDS, METRICS, kind_of_main, kind_of_summary
from mmdpad.visualization.curves import Series

from .html import bullets, remark, safe, table

_IN_TRAINING = dict(reward='reward, sum of weighted terms', reasoning_tokens='reasoning, tokens',
                    response_tokens='response, tokens', kl='KL to the start policy, nats per token',
                    entropy='entropy, nats per token', parse_failures='unusable responses, share',
                    time='seconds per iteration')


@dataclass(frozen=True)
class Evaluation:
    """A result file, see :data:`mmdpad.evaluation.summary.KINDS`.

    Attributes:
        name: The result file, relative to the run's folder.
        summary: The content of its ``.json``, see
            :func:`mmdpad.evaluation.results.summarize_result`.
        rows: Its lines; empty if only the numbers are shown.
    """
    name: str
    summary: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]] = field(default=())


def numbers_as_html(series: Series) -> str:
    """Numbers at the start and the end of training, and those of validations."""
    trained = {name: series[name] for name in _IN_TRAINING if name in series}
    if not trained:
        return _validated(series) + remark('There is no training log (LocalVisBackend writes '
                                           'TIME/vis_data/scalars.json).')
    steps = sorted({step for found, _ in trained.values() for step in found})
    few = max(1, len(steps) // 10)
    rows = [[_IN_TRAINING[name], _number(fmean(values[:few])), _number(fmean(values[-few:]))]
            for name, (_, values) in trained.items()]
    return (_validated(series)
            + table(['training', f'first, to iteration {steps[few - 1]}',
                     f'last, from iteration {steps[-few]}'], rows, wraps=True)
            + remark(f'The log has {len(steps)} line(s), the last from iteration {steps[-1]}; '
                     f'"first" and "last" are means over a tenth of them. A line may itself hold '
                     f'means over some iterations (log_processor.window_size).'))


def _validated(series: Series) -> str:
    """Of each metric the first validation, the one with the best of its main number, and the last.
    """
    found = {name.rpartition('/')[0]: kind for name in series if name.startswith('val: ')
             and (kind := kind_of_main(name.removeprefix('val: ')))}
    return ''.join(_validations(prefix, kind, series) for prefix, kind in found.items()) or remark(
        f'The log has no validation of {METRICS}.')


def _validations(prefix: str, kind: ResultKind, series: Series) -> str:
    values = {name: dict(zip(*series[key], strict=True)) for name in kind.shown
              if (key := f'{prefix}/{name}') in series}
    main = values[kind.shown[0]]
    steps = {'first': min(main), f'best {kind.columns[kind.shown[0]].title}':
             max(main, key=lambda step: main[step]), 'last': max(main)}
    rows = [[stage, step, *(_number(of[step]) if step in of else '-' for of in values.values())]
            for stage, step in steps.items()]
    head = ['iteration', *(kind.columns[name].title for name in values)]
    return table([f'validation, {prefix.removeprefix("val: ")}', *head], rows, wraps=True) + (
        '' if steps['first'] == 0 else remark(
            'No validation precedes the training. A test without a checkpoint measures the start: '
            'if it is in this folder, it is among the evaluations.'))


def evaluations_as_html(evaluations: Sequence[Evaluation]) -> str:
    """A line for each result: which weights answered which data, and how well."""
    if not evaluations:
        return remark(f'There is no result of {METRICS} in this folder.')
    kinds = [kind_of_summary(found.summary) or SEGMENTATION for found in evaluations]
    return ''.join(_evaluations([one for one, its in zip(evaluations, kinds, strict=True)
                                 if its is kind], kind) for kind in KINDS if kind in kinds)


def _evaluations(evaluations: Sequence[Evaluation], kind: ResultKind) -> str:
    rows = []
    for found in evaluations:
        protocol, origin = (_known(found, key) for key in ('protocol', 'provenance'))
        rows.append([found.name, _in_words(protocol.get('split', '-')), _weights(origin),
                     (protocol.get('test_cfg') or {}).get('temperature', '-'),
                     found.summary.get('metrics', {}).get('n', '-'),
                     *(_with_interval(found.summary, name) for name in kind.shown)])
    head = ['file', 'split', 'weights', 'temperature', 'samples',
            *(kind.columns[name].title for name in kind.shown)]
    return table(head, rows) + remark(f'Oldest first; in brackets, 95 % bootstrap intervals over '
                                      f'{kind.unit}; temperature 0 is greedy. {kind.units}')


def origin_as_html(shown: Sequence[Evaluation]) -> str:
    """Protocol and provenance of results."""
    if not shown:
        return remark(f'Results of {METRICS} state it, and there are none.')
    parts = []
    for one in shown:
        parts.append(f'<p>Of {safe(one.name)}.</p>')
        for key in ('protocol', 'provenance'):
            about = _known(one, key)
            parts.append(bullets(f'<b>{safe(name)}:</b> {safe(_in_words(value))}'
                                 for name, value in about.items()) if about else
                         remark(f'The {key} is unknown (ProvenanceHook records it).'))
    return '\n'.join(parts)


def _known(found: Evaluation, key: str) -> Mapping[str, Any]:
    about = found.summary.get(key)
    return about if isinstance(about, Mapping) else {}


def _weights(origin: Mapping[str, Any]) -> str:
    """Which weights answered: a checkpoint, or the weights at an iteration."""
    if not origin:
        return 'unknown'
    if origin.get('iter'):
        return f'iteration {origin["iter"]}'
    return str(origin.get('checkpoint') or 'of the config')


def _with_interval(summary: Mapping[str, Any], name: str) -> str:
    value = summary.get('metrics', {}).get(name)
    interval = summary.get('intervals', {}).get(name)
    return _number(value) + (f' [{", ".join(map(_number, interval))}]' if interval else '')


def _number(value: float | None) -> str:
    if value is None:
        return '-'
    return f'{value:.1f}' if abs(value) >= 10 else f'{value:.3f}'


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ', '.join(f'{name} {_in_words(item)}' for name, item in value.items())
    if isinstance(value, list):
        return ', '.join(map(_in_words, value))
    return str(value)
