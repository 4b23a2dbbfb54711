# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The numbers of a training run as parts of its page; missing parts are stated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from mmdpad.visualization.curves import Series

from .html import bullets, remark, safe, table

_IN_TRAINING = dict(reward='reward, sum of weighted terms', reasoning_tokens='reasoning, tokens',
                    response_tokens='response, tokens', kl='KL to the start policy, nats per token',
                    entropy='entropy, nats per token', parse_failures='unusable responses, share',
                    time='seconds per iteration')
_IN_VALIDATION = dict(giou='gIoU, %', ciou='cIoU, %')
_COMMON = dict(parse_failure_rate='unusable answers, share', reasoning_tokens='reasoning, tokens')
_IN_RESULTS = dict(giou='gIoU, %', ciou='cIoU, %', **_COMMON)
_IN_ANSWERS = dict(accuracy='accuracy, %', evidence_iou='evidence IoU, %', **_COMMON)


@dataclass(frozen=True)
class Evaluation:
    """A result of :class:`ReasonSegMetric`.

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
    """The first validation, the one with the best gIoU, which selects the checkpoint, and the
    last."""
    found = {title: dict(zip(*series[key], strict=True)) for name, title in _IN_VALIDATION.items()
             if (key := f'val: reasonseg/{name}') in series}
    if not found:
        return remark('The log has no validation of ReasonSegMetric.')
    giou, *_ = found.values()
    steps = dict(zip(('first', 'best gIoU', 'last'),
                     (min(giou), max(giou, key=lambda step: giou[step]), max(giou)), strict=True))
    rows = [[stage, step, *(_number(values[step]) if step in values else '-'
                            for values in found.values())] for stage, step in steps.items()]
    return table(['validation', 'iteration', *found], rows, wraps=True) + (
        '' if steps['first'] == 0 else remark(
            'No validation precedes the training. A test without a checkpoint measures the start: '
            'if it is in this folder, it is among the evaluations.'))


def evaluations_as_html(evaluations: Sequence[Evaluation]) -> str:
    """A line for each result: which weights answered which data, and how well."""
    if not evaluations:
        return remark('There is no result of ReasonSegMetric in this folder.')
    all_names = {name for found in evaluations for name in found.summary.get('metrics', ())}
    columns = ({} if 'accuracy' not in all_names else _IN_ANSWERS) | (
        {} if all_names and 'giou' not in all_names else _IN_RESULTS)
    rows = []
    for found in evaluations:
        protocol, origin = (_known(found, key) for key in ('protocol', 'provenance'))
        numbers = [_with_interval(found.summary, name) for name in columns]
        rows.append([found.name, protocol.get('split', '-'), _weights(origin),
                     (protocol.get('test_cfg') or {}).get('temperature', '-'),
                     found.summary.get('metrics', {}).get('n', '-'), *numbers])
    head = ['file', 'split', 'weights', 'temperature', 'samples', *columns.values()]
    return table(head, rows) + remark('Oldest first; in brackets, 95 % bootstrap intervals over '
                                      'samples; temperature 0 is greedy.')


def origin_as_html(shown: Evaluation | None) -> str:
    """Protocol and provenance of a result."""
    if shown is None:
        return remark('Results of ReasonSegMetric state it, and there are none.')
    parts = [f'<p>Of {safe(shown.name)}.</p>']
    for key in ('protocol', 'provenance'):
        about = _known(shown, key)
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
