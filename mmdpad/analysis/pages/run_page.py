# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The report of a training run as a page: numbers, curves, responses and answers.

If a run lacks something, the page says so in its place. Model text is escaped, and its control
characters are replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmdpad.evaluation.segmentation_summary import SEGMENTATION
from mmdpad.evaluation.summary import kind_of
from mmdpad.utils import answer_pictures, raised_alarms, rollout_logs, spread, training_logs
from mmdpad.visualization.curves import Series, plot_panels, read_scalars

from .answer_html import answer_as_html
from .html import as_jpeg, bullets, page, picture, remark, safe
from .rollouts import find_iterations, notable_groups, read_step, sections_as_html
from .run_numbers import Evaluation, evaluations_as_html, numbers_as_html, origin_as_html

ReadImage = Callable[[str], np.ndarray | None]

_ITERATIONS = 3  # for which rollouts are shown
_RESPONSES = 8  # per group
_ANSWERS = 6  # of each kind
_SAMPLES, _STAGES = 4, 3  # of the validation pictures


def run_as_html(work_dir: Path, evaluations: Sequence[Evaluation], shown: Sequence[Evaluation],
                read_image: ReadImage) -> str:
    """The report as a self-contained page without scripts.

    Args:
        work_dir: The run's work dir.
        evaluations: All results in it, oldest first.
        shown: Those whose best and worst answers, protocol and origin are shown, with rows.
        read_image: Path of an image -> (H, W, 3) uint8 RGB, or None if it cannot be read.

    Raises:
        ValueError: A log of the training's numbers is damaged.
    """
    series = read_scalars(*map(str, training_logs(work_dir)))
    parts = {
        'Numbers': numbers_as_html(series),
        'Alarms': _alarms(work_dir),
        'Curves': _curves(series),
        'Evaluations': evaluations_as_html(evaluations),
        'The same questions, validation by validation': _pictures(work_dir, read_image),
        'Answers': _shown(evaluations, shown) + ''.join(
            _answers(one, read_image) for one in shown),
        'Responses in training': _rollouts(work_dir, read_image),
        'Protocol and origin': origin_as_html(shown),
        'Config': _config(work_dir)}
    links = ''.join(f'<a href="#{number}">{safe(title)}</a>'
                    for number, title in enumerate(parts, start=1))
    name = work_dir.resolve().name
    return page(f'Run {name}', [
        f'<h1>Run {safe(name)}</h1>', f'<nav>{links}</nav>',
        *(f'<h2 id="{number}">{safe(title)}</h2>\n{body}'
          for number, (title, body) in enumerate(parts.items(), start=1))])


def _alarms(work_dir: Path) -> str:
    if not list(work_dir.glob('*/*.log')):
        return remark('There is no text log, so it is unknown whether AlarmHook raised an alarm.')
    alarms = raised_alarms(work_dir)
    return bullets(f'<span class="flag">{safe(alarm)}</span>' for alarm in alarms) if alarms else (
        '<p>The logs contain none.</p>')


def _curves(series: Series) -> str:
    drawn = ''.join(f'<div>{picture(data, "png", title)}</div>'
                    for title, data in plot_panels(series).items())
    return f'<div class="pair">{drawn}</div>' if drawn else remark('There is nothing to draw.')


def _pictures(work_dir: Path, read_image: ReadImage) -> str:
    found = answer_pictures(work_dir)
    if not found:
        return remark('There are no pictures of validations (ReasonSegVisualizationHook with '
                      'LocalVisBackend draws them).')
    parts = []
    for files in spread(found.values(), _SAMPLES):
        drawn = ((step, read_image(str(path))) for step, path in spread(files.items(), _STAGES))
        parts.append('<div class="pair">' + ''.join(
            f'<div><p><b>Iteration {step}</b></p>'
            f'{picture(as_jpeg(image), "jpeg", f"Iteration {step}")}</div>'
            for step, image in drawn if image is not None) + '</div>')
    return '\n'.join(parts)


def _shown(evaluations: Sequence[Evaluation], shown: Sequence[Evaluation]) -> str:
    """Which results' answers are shown."""
    if not shown:
        return remark('There is no evaluation whose answers could be shown.')
    others = {one.name for one in evaluations} - {one.name for one in shown}
    return remark(f'Of the newest evaluation of each metric and data set, or the one that --result '
                  f'names; {len(others)} other(s) are listed above.') if others else ''


def _answers(shown: Evaluation, read_image: ReadImage) -> str:
    kind = kind_of(shown.rows)
    ranked = sorted(shown.rows, key=kind.quality)
    few = min(_ANSWERS, (len(ranked) + 1) // 2)
    parts = [f'<p>Of {safe(shown.name)}. Among answers with the same {kind.quality_name}, the '
             f'first ones in the file are shown.</p>']
    if kind is SEGMENTATION and not any('mask' in row for row in ranked):
        parts.append(remark('The masks were not saved: set ReasonSegMetric(save_masks=True).'))
    best = sorted(shown.rows, key=lambda row: -kind.quality(row))[:few]
    for title, rows in (('Worst', ranked[:few]), ('Best', best)):
        answers = ''.join(answer_as_html(row['question'], row, _image(row, read_image))
                          for row in rows)
        parts.append(f'<h3>{title}</h3><div class="pair">{answers}</div>')
    return '\n'.join(parts)


def _rollouts(work_dir: Path, read_image: ReadImage) -> str:
    try:
        logs = find_iterations([str(path) for path in rollout_logs(work_dir)])
    except ValueError as error:
        return remark(f'They cannot be read: {error}')
    if not logs:
        return remark('There are none (RolloutLogHook writes TIME/rollouts.jsonl).')
    parts = [f'<p>At most {_ITERATIONS} iterations, spread over those in the log, each with the '
             f'prompts with the best and the worst mean reward and with the widest spread. The '
             f'best response comes first. With several processes, these are the first one\'s.</p>']
    for iteration, log in spread(logs.items(), _ITERATIONS):
        _, groups = read_step(log, iteration)
        sections = {f'Iteration {iteration}: {kind.lower()}': some
                    for kind, some in notable_groups(groups, 1).items()}
        parts.append(sections_as_html(sections, read_image, _RESPONSES))
    return '\n'.join(parts)


def _config(work_dir: Path) -> str:
    logs = training_logs(work_dir)
    path = logs[-1].with_name('config.py') if logs else None
    if path is None or not path.is_file():
        return remark('There is none beside the training log.')
    return (f'<details><summary>{safe(path.relative_to(work_dir))}</summary>'
            f'<pre>{safe(path.read_text(encoding="utf-8", errors="replace"))}</pre></details>')


def _image(row: Mapping[str, Any], read_image: ReadImage) -> np.ndarray | None:
    return None if row.get('image') is None else read_image(row['image'])
