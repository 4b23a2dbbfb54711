# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Wrapped text with headings, rendered as a picture."""

from __future__ import annotations

import os.path as osp
from collections.abc import Sequence
from functools import cache

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Section = tuple[str, str]
Swatch = tuple[str, tuple[int, int, int]]

INK, FAINT = (25, 25, 25), (110, 110, 110)
_MAX_CHARS, _MAX_LINES = 1500, 80


def draw_text_panel(sections: Sequence[Section], legend: Sequence[Swatch], width: int,
                    font_size: int) -> np.ndarray:
    """Draw sections with a bold heading and wrapped text, above a line of color swatches.

    Texts longer than 1500 characters or 80 lines are cut, which is indicated. Characters that
    cannot be drawn become a replacement character; the font (DejaVu Sans) covers Latin, Greek and
    Cyrillic, but not Chinese.

    Args:
        sections: (heading, text) pairs; those with an empty text are skipped.
        legend: (name, RGB color) pairs.
        width: Width of the picture in pixels.
        font_size: Height of the letters in pixels.

    Returns:
        (h, width, 3) uint8 RGB on white, as tall as the text requires.
    """
    body, bold = load_font(font_size), load_font(font_size, bold=True)
    margin, line = font_size, round(font_size * 1.35)
    commands: list[tuple] = []  # (x, y, text, font, color) or (x, y, color) for a swatch
    y = margin
    for heading, text in sections:
        if not text:
            continue
        commands.append((margin, y, heading, bold, FAINT))
        y += line
        rows = wrap(shorten(printable(text)), body, width - 2 * margin)
        if len(rows) > _MAX_LINES:
            rows[_MAX_LINES:] = [f'… ({len(rows) - _MAX_LINES} more lines)']
        for row in rows:
            commands.append((margin, y, row, body, INK))
            y += line
        y += line // 2
    x = margin
    for name, color in legend:
        advance = round(font_size * 2 + body.getlength(name))
        if x > margin and x + advance > width - margin:
            x, y = margin, y + line
        commands.append((x, y, color))
        commands.append((x + round(font_size * 1.2), y, name, body, FAINT))
        x += advance
    height = y + (line if legend else 0) + margin // 2

    panel = Image.new('RGB', (width, height), 'white')
    draw = ImageDraw.Draw(panel)
    for command in commands:
        if len(command) == 3:
            x, y, color = command
            top = y + font_size // 5
            draw.rectangle([x, top, x + font_size * 4 // 5, top + font_size * 4 // 5], fill=color)
        else:
            x, y, text, font, color = command
            draw.text((x, y), text, fill=color, font=font)
    return np.asarray(panel)


@cache
def load_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which ships with matplotlib."""
    name = 'DejaVuSans-Bold.ttf' if bold else 'DejaVuSans.ttf'
    path = osp.join(matplotlib.get_data_path(), 'fonts', 'ttf', name)
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def printable(text: str) -> str:
    """Keep line breaks, turn tabs into blanks, replace other control characters and surrogates."""
    text = text.replace('\r\n', '\n').replace('\t', ' ')
    return ''.join(c if c == '\n' or c.isprintable() else '\N{REPLACEMENT CHARACTER}'
                   for c in text)


def shorten(text: str, limit: int = _MAX_CHARS) -> str:
    """At most ``limit`` characters of the text, and the number of characters left out."""
    if len(text) <= limit:
        return text
    return f'{text[:limit]}… ({len(text) - limit} more characters)'


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines no wider than ``width`` pixels; a word that is too wide is broken anywhere."""
    lines = []
    for paragraph in text.split('\n'):
        line = ''
        for word in paragraph.split(' '):
            longer = f'{line} {word}' if line else word
            if font.getlength(longer) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            line = ''
            for char in word:
                if line and font.getlength(line + char) > width:
                    lines.append(line)
                    line = ''
                line += char
        lines.append(line)
    return lines
