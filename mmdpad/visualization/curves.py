# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Training curves from the numbers that MMEngine logs."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmdpad.utils import read_jsonl, write_atomically

from .text_panel import printable

# matplotlib's figures are imported where one is drawn: drawing answers needs only its font.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = dict[str, tuple[list[int], list[float]]]

# Title, unit of the y axis, names of the series: a trailing '/' matches all names with this
# prefix, a signal also matches those of other terms, prefixed with their name ('domain_s_roi'), and
# a validation also that of a data set among several ('val: detection/detection/f1').
_PANELS = (
    ('Mean reward', 'sum of weighted terms', ('reward', 'task_reward/')),
    ('Reward terms', 'mean of each term, unweighted', ('reward/',)),
    ('Similarities', 'cosine', ('signal/s_roi', 'signal/s_image', 'signal/s_margin')),
    ('Rank of the region', '1: nothing fits the caption better', ('signal/s_rank',)),
    ('Reasoning length', 'tokens inside <think>',
     ('reasoning_tokens', 'val: reasonseg/reasoning_tokens', 'val: detection/reasoning_tokens',
      'val: vqa/reasoning_tokens')),
    ('KL to the start policy', 'nats per token', ('kl', 'kl_loss')),
    ('Entropy', 'nats per token', ('entropy',)),
    ('Validation', 'percent', ('val: reasonseg/giou', 'val: reasonseg/ciou', 'val: detection/f1',
                               'val: vqa/accuracy', 'val: vqa/evidence_iou')),
)
_COLUMNS = 3
_SHORT = 30  # curves with at least this many values are smoothed
# For several seeds.
_SEEDS = (('reward', 'mean reward'), ('reward/discriminative', 'discriminative term'),
          ('reasoning_tokens', 'reasoning, tokens'), ('val: reasonseg/giou', 'validation gIoU, %'),
          ('val: reasonseg/ciou', 'validation cIoU, %'))


def plot_curves(logs: str | Sequence[str], out_png: str) -> str:
    """Plot reward, its terms, reasoning length, KL, entropy and validation over training steps.

    Args:
        logs: ``vis_data/scalars.json`` of a run (or the ``.json`` beside it); for a resumed run
            all of them, oldest first, see :func:`read_scalars`.
        out_png: Path of the picture; a number is added if the name is taken.

    Returns:
        Path of the written PNG.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is not a log of MMEngine, or none has any of the known series.
    """
    logs = [logs] if isinstance(logs, str) else list(logs)
    series = read_scalars(*logs)
    panels = _panels(series)
    if not panels:
        found = f'{", ".join(logs)}: {sorted(series) or "none"}' if logs else 'no log'
        raise ValueError(
            f'The logs of a run should have a series of GRPO training, such as "reward" or '
            f'"reasonseg/giou", but got {found}; draw a run of `GRPOTrainLoop`, with '
            f'`LocalVisBackend` in `vis_backends`, which writes them')
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(5 * columns, 3.4 * rows)
    for number, panel in enumerate(panels, start=1):
        _draw_panel(figure.add_subplot(rows, columns, number), *panel)
    return write_atomically(out_png, as_png(figure, 110))


def plot_panels(series: Series) -> dict[str, bytes]:
    """The panels of :func:`plot_curves`, each as a separate PNG: title -> file content."""
    pictures = {}
    for panel in _panels(series):
        figure = new_figure(5, 3.4)
        _draw_panel(figure.add_subplot(), *panel)
        pictures[panel[0]] = as_png(figure, 140)
    return pictures


def read_scalars(*logs: str) -> Series:
    """Read the JSON lines of MMEngine's local visualization backend.

    Args:
        logs: The logs of one run, oldest first. After a resume, the later log takes over from its
            first training step; an earlier log's values from there on are dropped.

    Returns:
        Name -> (steps, values), steps ascending. Names of validation results start with 'val: '.
        If a step occurs twice in a log, the later line counts; non-finite values are dropped.

    Raises:
        FileNotFoundError, ValueError: See :func:`mmdpad.utils.read_jsonl`.
    """
    points: dict[str, dict[int, float]] = {}
    for log in logs:
        rows = [(int(row.get('step', number)), row)
                for number, row in enumerate(read_jsonl(log), start=1)]
        start = min((step for step, row in rows if 'iter' in row), default=math.inf)
        points = {name: {step: value for step, value in by_step.items() if step < start}
                  for name, by_step in points.items()}
        for step, row in rows:
            # MMEngine adds 'iter' to training lines only.
            prefix = '' if 'iter' in row else 'val: '
            for name, value in row.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    points.setdefault(prefix + name, {})[step] = float(value)
    return {name: tuple(map(list, zip(*sorted(by_step.items()), strict=True)))  # type: ignore
            for name, by_step in points.items() if by_step}


def plot_seeds(runs: Mapping[str, Sequence[Sequence[str]]]) -> bytes | None:
    """Plot reward, discriminative term, reasoning length and validation IoU for several arms: the
    mean over seeds in a :func:`band` from the lowest to the highest.

    Args:
        runs: Title of an arm -> the logs of each seed, oldest first, see :func:`read_scalars`.

    Returns:
        A PNG; None if no run has any of these series.
    """
    read = {arm: [read_scalars(*logs) for logs in seeds] for arm, seeds in runs.items()}
    panels = []
    for name, title in _SEEDS:
        found = {arm: band(lines) for arm, seeds in read.items()
                 if (lines := [dict(zip(*series[name], strict=True)) for series in seeds
                               if name in series])}
        panels += [(title, found)] if found else []
    if not panels:
        return None
    rows = math.ceil(len(panels) / 2)
    figure = new_figure(11, 3.5 * rows)
    for number, (title, found) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, 2, number)
        for arm, (steps, mean, low, high) in found.items():
            look = dict(color=f'C{list(runs).index(arm) % 10}')
            # matplotlib would typeset text between dollar signs as a formula.
            axes.plot(steps, mean, marker='o' if len(steps) < _SHORT else '', markersize=3,
                      label=printable(arm).replace('$', r'\$'), **look)
            axes.fill_between(steps, low, high, alpha=0.2, **look)
        axes.set(title=title, xlabel='step')
        axes.grid(alpha=0.3)
        axes.legend(fontsize='small')
    return as_png(figure, 100)


def band(lines: Sequence[Mapping[int, float]]
         ) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
    """The steps that all seeds' curves (step -> value) share, and the mean, lowest and highest
    value at each; long curves are smoothed first."""
    steps = sorted(set(lines[0]).intersection(*lines[1:]))
    values = [[line[step] for step in steps] for line in lines]
    if len(steps) >= _SHORT:
        values = [smooth(line) for line in values]
    curves = np.array(values, float)
    return steps, curves.mean(axis=0), curves.min(axis=0), curves.max(axis=0)


def _panels(series: Series) -> list[tuple[str, str, Series]]:
    """Title, unit and lines of each of :data:`_PANELS` that has data."""
    panels = [(title, unit, _select(series, names)) for title, unit, names in _PANELS]
    return [panel for panel in panels if panel[2]]


def _select(series: Series, names: tuple[str, ...]) -> Series:
    return {name: line for name, line in series.items()
            if any(_matches(name, wanted) for wanted in names)}


def _matches(name: str, wanted: str) -> bool:
    kind, _, signal = wanted.partition('/')
    return (name == wanted or wanted.endswith('/') and name.startswith(wanted)
            or kind.startswith('val: ') and name.startswith('val: ')
            and name.endswith(wanted.replace('val: ', '/'))
            or kind == 'signal' and name.startswith('signal/') and name.endswith(f'_{signal}'))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def as_png(figure: Figure, dpi: int) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=dpi)
    return buffer.getvalue()


def _draw_panel(axes: Axes, title: str, unit: str, lines: Series) -> None:
    from matplotlib.ticker import MaxNLocator
    for name, (steps, values) in lines.items():
        _draw(axes, name, steps, values)
    axes.set(title=title, xlabel='step', ylabel=unit)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(lines) > 2:  # above the plot, where it covers no line
        axes.legend(fontsize='x-small', ncols=3, loc='lower center', bbox_to_anchor=(0.5, 1.0))
        axes.set_title(title, pad=12 + 10 * math.ceil(len(lines) / 3))
    elif len(lines) > 1:
        axes.legend(fontsize='small')


def _draw(axes: Axes, name: str, steps: list[int], values: list[float]) -> None:
    """A line with a dot for each value; for a long series, a smoothed line over the faint values.
    """
    *dataset, _, number = name.removeprefix('val: ').rsplit('/', 2) if '/' in name else ('', name)
    label = ' '.join([*dataset, number]) + (' (validation)' if name.startswith('val: ') else '')
    if len(values) < _SHORT:
        axes.plot(steps, values, marker='o', markersize=3, label=label)
        return
    faint, = axes.plot(steps, values, alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth(values), color=faint.get_color(), label=label)


def smooth(values: list[float]) -> np.ndarray:
    """A long curve's :func:`running_mean` over a fifteenth of it."""
    return running_mean(values, max(5, len(values) // 15))


def running_mean(values: list[float], window: int) -> np.ndarray:
    """Mean of each value and its neighbors within ``window // 2``, fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low = np.maximum(index - window // 2, 0)
    high = np.minimum(index + window // 2 + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
