# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Prose of the Markdown that tools write."""

from __future__ import annotations

import re
import textwrap

WIDTH = 100
# A line that began with one of these would be a list, a heading or a quotation.
_MARKERS = re.compile(r' (?=(?:[-+*>]|#{1,6}|\d+[.)]) )')


def wrap_markdown(text: str, width: int = WIDTH) -> str:
    """Break the long lines of a page. Tables, code and words longer than ``width`` stay as they
    are, and so does what a reader sees of the rest.

    Args:
        text: Markdown without nested lists.
        width: Maximum number of characters in a line.
    """
    lines, in_code = list[str](), False
    for line in text.split('\n'):
        in_code ^= line.startswith('```')
        if in_code or line.startswith(('|', '    ')) or len(line) <= width:
            lines.append(line)
            continue
        wrapped = textwrap.fill(
            _MARKERS.sub('\0', line), width, subsequent_indent='  ' * line.startswith('- '),
            break_long_words=False, break_on_hyphens=False)
        lines.append(wrapped.replace('\0', ' '))
    return '\n'.join(lines)
