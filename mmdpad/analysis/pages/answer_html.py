# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""An answer from a result file as part of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmdpad.visualization.answer import regions_of, verdict
from mmdpad.visualization.regions import draw_regions
from mmdpad.visualization.text_panel import Swatch

from .html import as_jpeg, picture, safe, table

_OBJECTS = 100  # in a table


def legend(items: Sequence[Swatch]) -> str:
    """The colors used in a picture."""
    return '<p>' + ' '.join(f'<span style="color: rgb{color}">■</span> {safe(name)}'
                            for name, color in items) + '</p>' if items else ''


def objects_as_html(objects: Sequence[tuple[str, float, str]]) -> str:
    """A table of labels, scores and descriptions; empty if there are none."""
    if not objects:
        return ''
    rows = [(label, f'{score:.2f}', description) for label, score, description in objects]
    more = f'<p>{len(rows) - _OBJECTS} more are not shown.</p>' if len(rows) > _OBJECTS else ''
    return table(['label', 'score', 'description'], rows[:_OBJECTS], wraps=True) + more


def answer_as_html(title: str, row: Mapping[str, Any], image: np.ndarray | None) -> str:
    """The drawn answer, with the reasoning, and the caption or the objects, below it.

    Args:
        title: Text above the answer.
        row: A line of :class:`ReasonSegMetric`, :class:`DetectionMetric` or
            :class:`QuestionAnsweringMetric`.
        image: (H, W, 3) uint8 RGB; None if it cannot be read, which is stated.
    """
    names = row.get('label_names')
    texts = dict(Reasoning=row.get('think'),
                 **(dict(Answer=row['answer']) if 'answer' in row else {}),
                 **(dict(Caption=row.get('caption')) if names is None else {}), Result=verdict(row))
    objects = objects_as_html([*zip(names, row['scores'], row['descriptions'], strict=True)]
                              if names else [])
    return f'<div><p><b>{safe(title)}</b></p>{_drawn(title, row, image)}' + ''.join(
        f'<p><b>{name}:</b> {safe("none" if text is None else text)}</p>'
        for name, text in texts.items()) + f'{objects}</div>'


def _drawn(title: str, row: Mapping[str, Any], image: np.ndarray | None) -> str:
    if image is None:
        return '<p>The image is not available.</p>'
    try:
        drawn, items = draw_regions(image, regions_of(row))
    except ValueError as error:
        return f'<p>The answer cannot be drawn: {safe(error)}</p>'
    return picture(as_jpeg(drawn), 'jpeg', f'Answer of {title}') + legend(items)
