# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""How wrong answers are if only a part of the questions is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmdpad.utils import write_atomically

from .curves import as_png, new_figure
from .text_panel import printable


def plot_risk_coverage(curves: Mapping[str, Sequence[Mapping[str, Any]]], out_png: str) -> str:
    """Plot the risk over the coverage.

    Args:
        curves: Label -> points as in :func:`mmdpad.evaluation.risk_coverage.risk_coverage_curve`,
            or in the ``abstention`` of a :class:`SelectionMetric`.
        out_png: Path of the picture; a number is added if the name is taken.

    Returns:
        Path of the written PNG.
    """
    figure = new_figure(5.2, 4.0)
    axes = figure.add_subplot()
    for label, points in curves.items():
        axes.plot([point['coverage'] for point in points], [point['risk'] for point in points],
                  linewidth=1.2, label=printable(label).replace('$', r'\$'))
    axes.set(title='Risk and coverage', xlabel='share of questions that are answered',
             ylabel='their mean 1 - IoU', xlim=(0, 1), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize='small')
    return write_atomically(out_png, as_png(figure, 110))
