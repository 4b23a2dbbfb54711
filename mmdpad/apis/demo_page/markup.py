# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The few HTML parts of the page. Inserted text is escaped and stays text."""

from __future__ import annotations

from typing import Any

from mmdpad.analysis.pages.answer_html import legend, objects_as_html
from mmdpad.analysis.pages.html import safe
from mmdpad.visualization.regions import BOX

from .asking import Shown

# Hides gradio's own queue line and error box; the page shows its own.
CSS = """
#problem { min-height: 3.5em; }
#problem .wrap { overflow: visible; }
#problem .error, #problem .clear-status { display: none; }
.status { min-height: 1.6em; }
.model h2 { margin: 0; }
.picture img { max-height: 70vh; object-fit: contain; }
.bad { color: #c02020; font-weight: 600; }
.dark .bad { color: #ff8080; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 2px 12px; }
.facts dt { opacity: 0.7; }
.facts dd { margin: 0; }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 6px 10px;
        align-items: center; margin-top: 8px; }
.bars .bar { height: 14px; border-radius: 3px; }
.details table { width: 100%; font-size: 14px; }
.part { margin-bottom: 10px; }
"""


def notice(problem: str) -> str:
    """The problem with the image or question; empty if there is none."""
    return f'<div class="notice bad" role="alert">{text(problem)}</div>' if problem else ''


def status(shown: Shown) -> str:
    """A model's progress."""
    kind = 'status bad' if shown.failed else 'status'
    return f'<div class="{kind}" role="status">{text(shown.status)}</div>'


def details(shown: Shown) -> str:
    """Legend, objects, answers that were sampled, facts and similarities of a finished answer;
    empty before that."""
    parts = []
    if shown.legend:
        parts.append(legend(shown.legend))
    if shown.objects:
        parts.append(_inert(objects_as_html(shown.objects)))
    if shown.samples:
        rows = ''.join('<tr>' + ''.join(f'<td>{text(cell)}</td>' for cell in row) + '</tr>'
                       for row in shown.samples)
        parts.append(f'<table class="samples"><tr><th>answer</th><th>value</th><th>caption</th>'
                     f'</tr>{rows}</table>')
    if shown.facts:
        rows = ''.join(f'<dt>{text(name)}</dt><dd>{text(value)}</dd>'
                       for name, value in shown.facts.items())
        parts.append(f'<dl class="facts">{rows}</dl>')
    if shown.similarities:
        parts.append(bars(*shown.similarities))
    elif shown.note:
        parts.append(f'<div class="note">{text(shown.note)}</div>')
    return ''.join(f'<div class="part">{part}</div>' for part in parts)


def bars(region: float, image: float) -> str:
    """CLIP's similarities of the caption with the region and the whole image, in [-1, 1], as bars
    from 0 to the larger one (a negative one has no length), and the conclusion."""
    full = max(region, image, 1e-6)
    rows = ''.join(
        f'<span>{name}</span><div><div class="bar" style="width:{100 * max(value, 0) / full:.1f}%;'
        f'background:{_rgb(color)}"></div></div><span>{value:.3f}</span>'
        for name, value, color in (('region', region, BOX), ('whole image', image, (128, ) * 3)))
    verdict = 'better than' if region > image else 'no better than'
    return (f'<div>CLIP: the caption fits the region {verdict} the whole image '
            f'({region - image:+.3f})</div><div class="bars">{rows}</div>')


def text(value: Any) -> str:
    """Escaped for HTML, and for the templates that gradio treats HTML as."""
    return _inert(safe(value))


def _inert(html: str) -> str:
    """HTML without the marks of templates."""
    return html.replace('{', '&#123;').replace('$', '&#36;')


def _rgb(color: tuple[int, ...]) -> str:
    return f'rgb{tuple(color)}'
