# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The report of a training run as a page: its numbers, curves, responses and answers.

What a run does not have is said at its place. Model text is escaped and shown with its control
characters replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from mmdpad.utils import answer_pictures, raised_alarms, rollout_logs, spread, training_logs

from .answer_html import LEGEND, answer_as_html
from .curves import Series, plot_panels, read_scalars
from .html import as_jpeg, bullets, page, picture, safe, table
from .rollouts import find_iterations, notable_groups, read_step, sections_as_html

ReadImage = Callable[[str], np.ndarray | None]

_ITERATIONS = 3  # of which rollouts are shown
_RESPONSES = 8  # of a group
_ANSWERS = 6  # of each kind
_SAMPLES, _STAGES = 4, 3  # of the pictures of validations
_IN_TRAINING = dict(reward='reward, sum of weighted terms',
                    think_tokens='chain, tokens',
                    response_tokens='response, tokens', kl='KL to the start policy, nats a token',
                    entropy='entropy, nats a token', parse_failures='unusable responses, share',
                    time='seconds an iteration')
_IN_VALIDATION = dict(giou='gIoU, %', ciou='cIoU, %')
_IN_RESULTS = dict(giou='gIoU, %', ciou='cIoU, %', parse_failure_rate='unusable answers, share',
                   think_tokens='chain, tokens')


@dataclass(frozen=True)
class Evaluation:
    """A result of :class:`ReasonSegMetric`.

    Attributes:
        name: Its file, relative to the run's folder.
        summary: What its ``.json`` holds, see :func:`mmdpad.evaluation.results.summarise_result`.
        rows: Its lines; empty where only the numbers are shown.
    """
    name: str
    summary: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]] = field(default=())


def run_as_html(work_dir: Path, evaluations: Sequence[Evaluation], shown: Evaluation | None,
                read_image: ReadImage) -> str:
    """The report as a page that needs no other file and no script.

    Args:
        work_dir: Of the run.
        evaluations: All results in it, oldest first.
        shown: The one whose best and worst answers, protocol and origin are shown, with rows.
        read_image: Path of an image -> (H, W, 3) uint8 RGB, or None if it cannot be read.

    Raises:
        ValueError: A log of the training's numbers is damaged.
    """
    series = read_scalars(*map(str, training_logs(work_dir)))
    parts = {
        'Numbers': _numbers(series),
        'Alarms': _alarms(work_dir),
        'Curves': _curves(series),
        'Evaluations': _evaluations(evaluations),
        'The same questions, validation by validation': _pictures(work_dir, read_image),
        'Answers': _answers(shown, read_image),
        'Responses in training': _rollouts(work_dir, read_image),
        'Protocol and origin': _origin(shown),
        'Config': _config(work_dir)}
    links = ''.join(f'<a href="#{number}">{safe(title)}</a>'
                    for number, title in enumerate(parts, start=1))
    name = work_dir.resolve().name
    return page(f'Run {name}', [
        f'<h1>Run {safe(name)}</h1>', f'<nav>{links}</nav>',
        *(f'<h2 id="{number}">{safe(title)}</h2>\n{body}'
          for number, (title, body) in enumerate(parts.items(), start=1))])


def _numbers(series: Series) -> str:
    """Of training at first and at last, and of validations."""
    trained = {name: series[name] for name in _IN_TRAINING if name in series}
    if not trained:
        return _validated(series) + _remark('There is no log of training (LocalVisBackend writes '
                                            'TIME/vis_data/scalars.json).')
    steps = sorted({step for found, _ in trained.values() for step in found})
    few = max(1, len(steps) // 10)
    rows = [[_IN_TRAINING[name], _number(fmean(values[:few])), _number(fmean(values[-few:]))]
            for name, (_, values) in trained.items()]
    return (_validated(series)
            + table(['training', f'first, to iteration {steps[few - 1]}',
                     f'last, from iteration {steps[-few]}'], rows, wraps=True)
            + _remark(f'{len(steps)} lines are in the log, the last of iteration {steps[-1]}; '
                      f'"first" and "last" are means over a tenth of them. A line may itself hold '
                      f'means over some iterations (log_processor.window_size).'))


def _validated(series: Series) -> str:
    """The first validation, the one with the best gIoU, by which a checkpoint is chosen, and the
    last."""
    found = {title: dict(zip(*series[key], strict=True)) for name, title in _IN_VALIDATION.items()
             if (key := f'val: reasonseg/{name}') in series}
    if not found:
        return _remark('The log has no validation of ReasonSegMetric.')
    giou, *_ = found.values()
    steps = dict(zip(('first', 'best gIoU', 'last'),
                     (min(giou), max(giou, key=lambda step: giou[step]), max(giou)), strict=True))
    rows = [[stage, step, *(_number(values[step]) if step in values else '-'
                            for values in found.values())] for stage, step in steps.items()]
    return table(['validation', 'iteration', *found], rows, wraps=True) + (
        '' if steps['first'] == 0 else _remark(
            'No validation precedes the training. A test without a checkpoint is one of the start '
            'policy; if it is in this folder, it is among the evaluations.'))


def _alarms(work_dir: Path) -> str:
    if not list(work_dir.glob('*/*.log')):
        return _remark('There is no text log, so it is not known whether AlarmHook spoke up.')
    alarms = raised_alarms(work_dir)
    return bullets(f'<span class="flag">{safe(alarm)}</span>' for alarm in alarms) if alarms else (
        '<p>None is in the logs.</p>')


def _curves(series: Series) -> str:
    drawn = ''.join(f'<div>{picture(data, "png", title)}</div>'
                    for title, data in plot_panels(series).items())
    return f'<div class="pair">{drawn}</div>' if drawn else _remark('There is nothing to draw.')


def _evaluations(evaluations: Sequence[Evaluation]) -> str:
    if not evaluations:
        return _remark('There is no result of ReasonSegMetric in this folder.')
    rows = []
    for found in evaluations:
        protocol, origin = (_known(found, key) for key in ('protocol', 'provenance'))
        numbers = [_with_interval(found.summary, name) for name in _IN_RESULTS]
        rows.append([found.name, protocol.get('split', '-'), _weights(origin),
                     (protocol.get('test_cfg') or {}).get('temperature', '-'),
                     found.summary.get('metrics', {}).get('n', '-'), *numbers])
    head = ['file', 'split', 'weights', 'temperature', 'samples', *_IN_RESULTS.values()]
    return table(head, rows) + _remark('Oldest first; in brackets 95 % bootstrap intervals over '
                                       'samples; temperature 0 is greedy.')


def _pictures(work_dir: Path, read_image: ReadImage) -> str:
    found = answer_pictures(work_dir)
    if not found:
        return _remark('There are no pictures of validations (AnswerPictureHook with '
                        'LocalVisBackend draws them).')
    parts = []
    for files in spread(found.values(), _SAMPLES):
        drawn = ((step, read_image(str(path))) for step, path in spread(files.items(), _STAGES))
        parts.append('<div class="pair">' + ''.join(
            f'<div><p><b>Iteration {step}</b></p>'
            f'{picture(as_jpeg(image), "jpeg", f"Iteration {step}")}</div>'
            for step, image in drawn if image is not None) + '</div>')
    return '\n'.join(parts)


def _answers(shown: Evaluation | None, read_image: ReadImage) -> str:
    if shown is None:
        return _remark('There is no evaluation whose answers could be shown.')
    ranked = sorted(shown.rows, key=lambda row: row['iou'])
    few = min(_ANSWERS, (len(ranked) + 1) // 2)
    parts = [f'<p>Of {safe(shown.name)}. Of answers with the same IoU those are here that '
             f'come first in the file.</p>', LEGEND]
    if not any('mask' in row for row in ranked):
        parts.append(_remark('The masks were not kept: ReasonSegMetric(save_masks=True) does so.'))
    best = sorted(shown.rows, key=lambda row: -row['iou'])[:few]
    for title, rows in (('Worst', ranked[:few]), ('Best', best)):
        answers = ''.join(answer_as_html(row['question'], row, _image(row, read_image), panel=False)
                          for row in rows)
        parts.append(f'<h3>{title}</h3><div class="pair">{answers}</div>')
    return '\n'.join(parts)


def _rollouts(work_dir: Path, read_image: ReadImage) -> str:
    try:
        logs = find_iterations([str(path) for path in rollout_logs(work_dir)])
    except ValueError as error:
        return _remark(f'They cannot be read: {error}')
    if not logs:
        return _remark('There are none (RolloutLogHook writes TIME/rollouts.jsonl).')
    parts = [f'<p>{_ITERATIONS} iterations at most, spread over those in the log, and of each the '
             f'prompts with the best and the worst mean reward and with the widest spread. The '
             f'best response comes first.</p>']
    for iteration, log in spread(logs.items(), _ITERATIONS):
        _, groups = read_step(log, iteration)
        sections = {f'Iteration {iteration}: {kind.lower()}': some
                    for kind, some in notable_groups(groups, 1).items()}
        parts.append(sections_as_html(sections, read_image, _RESPONSES))
    return '\n'.join(parts)


def _origin(shown: Evaluation | None) -> str:
    if shown is None:
        return _remark('It stands in results of ReasonSegMetric, of which there are none.')
    parts = [f'<p>Of {safe(shown.name)}.</p>']
    for key in ('protocol', 'provenance'):
        about = _known(shown, key)
        parts.append(bullets(f'<b>{safe(name)}:</b> {safe(_in_words(value))}'
                             for name, value in about.items()) if about else
                     _remark(f'The {key} is not known (ProvenanceHook tells it).'))
    return '\n'.join(parts)


def _config(work_dir: Path) -> str:
    logs = training_logs(work_dir)
    path = logs[-1].with_name('config.py') if logs else None
    if path is None or not path.is_file():
        return _remark('There is none beside the log of training.')
    return (f'<details><summary>{safe(path.relative_to(work_dir))}</summary>'
            f'<pre>{safe(path.read_text(encoding="utf-8", errors="replace"))}</pre></details>')


def _remark(text: str) -> str:
    return f'<p class="faint">{safe(text)}</p>'


def _image(row: Mapping[str, Any], read_image: ReadImage) -> np.ndarray | None:
    return None if row.get('image') is None else read_image(row['image'])


def _known(found: Evaluation, key: str) -> Mapping[str, Any]:
    about = found.summary.get(key)
    return about if isinstance(about, Mapping) else {}


def _weights(origin: Mapping[str, Any]) -> str:
    """What answered: a checkpoint, or the weights of an iteration."""
    if not origin:
        return 'not known'
    if origin.get('iter'):
        return f'iteration {origin["iter"]}'
    return str(origin.get('checkpoint') or 'start policy')


def _with_interval(summary: Mapping[str, Any], name: str) -> str:
    value = summary.get('metrics', {}).get(name)
    if value is None:
        return '-'
    interval = summary.get('intervals', {}).get(name)
    return _number(value) + (f' [{", ".join(map(_number, interval))}]' if interval else '')


def _number(value: float) -> str:
    return f'{value:.1f}' if abs(value) >= 10 else f'{value:.3f}'


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ', '.join(f'{name} {_in_words(item)}' for name, item in value.items())
    if isinstance(value, list):
        return ' x '.join(map(_in_words, value))
    return str(value)
