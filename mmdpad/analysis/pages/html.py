# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Common to all pages: one style, text that is always escaped, and embedded pictures.

A page needs no other file and has no script. Its policy forbids the browser to run or fetch
anything, so model text could not do so even if it were not escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from mmdpad.visualization.text_panel import printable

WIDEST = 900  # pixels of a large embedded picture's longer side
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = '''
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72em; margin: 0 auto; padding: 1em;
       color: #191919; background: #fff }
.scroll { overflow-x: auto; margin: .7em 0 }
table { border-collapse: collapse; font-size: 15px; white-space: nowrap }
th, td { padding: .25em .7em; border: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
.wraps { white-space: normal }
img { max-width: 100%; height: auto }
ul { padding-left: 1.3em; overflow-wrap: anywhere }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 }
.pair { display: grid; gap: 1em;
        grid-template-columns: repeat(auto-fit, minmax(min(100%, 22em), 1fr)) }
.pair p { margin: .3em 0; white-space: pre-wrap; overflow-wrap: anywhere }
.flag { color: #b00020 }
.faint { color: #666 }
section { border-top: 1px solid #bbb; padding: 1em 0; display: flex; flex-wrap: wrap; gap: 1.5em }
section > div { max-width: 100%; overflow-wrap: anywhere }
section > div:last-child { flex: 1 1 24em; min-width: 0 }
section h4 { margin: 0 }
.response { border-left: 3px solid #ddd; padding-left: .8em; margin: .8em 0 }
.response > span { display: inline-block; margin-right: 1em; font-size: 14px }
.response .faint { margin-right: .3em }
.response pre { font-size: 14px; background: #f4f4f4; padding: .4em }
nav a { margin-right: 1em; display: inline-block }
@media print { nav { display: none } body { padding: 0; font-size: 11pt }
               img, tr, .response, .pair > div { break-inside: avoid }
               h2, h3, h4 { break-after: avoid } }
'''


def page(title: str, parts: Iterable[str]) -> str:
    """A complete page.

    Args:
        title: Plain text.
        parts: Parts of its body, as HTML.
    """
    return '\n'.join([
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{safe(title)}</title><style>{_STYLE}</style></head><body>',
        *parts, '</body></html>\n'])


def safe(value: Any) -> str:
    """Any value as escaped text, model text included, with control characters replaced."""
    return escape(printable(str(value)))


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], wraps: bool = False) -> str:
    """Cells (plain text) below the column names. On a narrow screen the table scrolls; if it
    ``wraps``, the cells break first."""
    names = ''.join(f'<th>{safe(cell)}</th>' for cell in head)
    body = ''.join('<tr>' + ''.join(f'<td>{safe(cell)}</td>' for cell in row) + '</tr>\n'
                   for row in rows)
    kind = ' class="wraps"' if wraps else ''
    return f'<div class="scroll"><table{kind}><tr>{names}</tr>\n{body}</table></div>'


def bullets(items: Iterable[str]) -> str:
    """A bullet list; its items are HTML."""
    return '<ul>' + ''.join(f'<li>{item}</li>' for item in items) + '</ul>'


def remark(text: str) -> str:
    """A less prominent paragraph."""
    return f'<p class="faint">{safe(text)}</p>'


def picture(data: bytes, kind: str, name: str) -> str:
    """An img element with a picture file embedded; ``kind`` is 'png' or 'jpeg'."""
    source = f'data:image/{kind};base64,{base64.b64encode(data).decode()}'
    return f'<img alt="{safe(name)}" title="{safe(name)}" src="{source}">'


def as_jpeg(image: np.ndarray, longest: int = WIDEST) -> bytes:
    """An image (H, W, 3) uint8 RGB as JPEG, reduced if a side has more than ``longest`` pixels."""
    smaller = Image.fromarray(image)
    smaller.thumbnail((longest, longest))
    buffer = io.BytesIO()
    smaller.save(buffer, format='JPEG', quality=80)
    return buffer.getvalue()
