# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""An answer from a result file as part of a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdpad.visualization.answer import BOX, MASK, POINT, TRUTH, draw_row, verdict

from .html import as_jpeg, picture, safe


def legend(truth: bool = True) -> str:
    """The colors used in a picture without a panel; omits the true mask if ``truth`` is False."""
    return '<p>' + ' '.join(
        f'<span style="color: rgb{color}">■</span> {name}' for name, color in (
            ('predicted mask', MASK), ('box', BOX), ('points', POINT),
            ('true mask', TRUTH))[:4 if truth else 3]) + '</p>'


def answer_as_html(title: str, row: Mapping[str, Any], image: np.ndarray | None,
                   panel: bool = True) -> str:
    """The drawn answer, with the reasoning and the caption below it.

    Args:
        title: Text above the answer.
        row: A line written by :class:`ReasonSegMetric` or :class:`QuestionAnsweringMetric`.
        image: (H, W, 3) uint8 RGB; None if it cannot be read, which is stated.
        panel: Whether the picture includes question, result and legend; without it, the page
            should show the question and a :func:`legend`.
    """
    answer = (('Answer', row['answer']), ) if 'answer' in row else ()
    texts = (('Reasoning', row.get('think')), *answer, ('Caption', row.get('caption')),
             ('Result', verdict(row)))
    return f'<div><p><b>{safe(title)}</b></p>{_drawn(title, row, image, panel)}' + ''.join(
        f'<p><b>{name}:</b> {safe("none" if text is None else text)}</p>'
        for name, text in texts) + '</div>'


def _drawn(title: str, row: Mapping[str, Any], image: np.ndarray | None, panel: bool) -> str:
    if image is None:
        return '<p>The image is not available.</p>'
    try:
        drawn = draw_row(image, row, with_reasoning=False, panel=panel)
    except ValueError as error:
        return f'<p>The answer cannot be drawn: {safe(error)}</p>'
    return picture(as_jpeg(drawn), 'jpeg', f'Answer of {title}')
