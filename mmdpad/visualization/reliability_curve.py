# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How often boxes of each score are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmdpad.utils import write_atomically

from .curves import as_png, new_figure
from .text_panel import printable


def plot_reliability(curves: Mapping[str, Sequence[Mapping[str, float]]], out_png: str) -> str:
    """Plot the share of right boxes over their mean score, bin by bin, beside the diagonal on which
    scores are probabilities.

    Args:
        curves: Label -> bins as in :func:`mmdpad.evaluation.calibration.reliability_curve`, or in
            the ``reliability`` of a :class:`DetectionMetric`. A larger dot has more boxes.
        out_png: Path of the picture; a number is added if the name is taken.

    Returns:
        Path of the written PNG.
    """
    figure = new_figure(4.4, 4.2)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color='gray', linestyle=':', label='calibrated')
    for label, bins in curves.items():
        scores, right = [one['score'] for one in bins], [one['right'] for one in bins]
        most = max((one['n'] for one in bins), default=1)
        line, = axes.plot(scores, right, linewidth=1,
                          label=printable(label).replace('$', r'\$'))
        axes.scatter(scores, right, [8 + 40 * one['n'] / most for one in bins],
                     color=line.get_color())
    axes.set(title='Reliability', xlabel='mean score', ylabel='share of right boxes',
             xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect='equal')
    axes.grid(alpha=0.3)
    axes.legend(fontsize='small')
    return write_atomically(out_png, as_png(figure, 110))
