# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Prose and tables of the Markdown that tools write."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

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


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, without a newline at its end; each ``|`` in a cell becomes a slash."""
    lines = [head, ['---'] * len(head), *rows]
    return '\n'.join(f'| {" | ".join(cell.replace("|", "/") for cell in line)} |'
                     for line in lines)


def put_block(page: str, block: str) -> str:
    """The page with ``block``, whose first and last lines are markers, in place of its own markers
    and everything between them.

    Raises:
        ValueError: The page does not have both markers exactly once, in order.
    """
    start, *_, end = block.split('\n')
    pattern = f'{re.escape(start)}.*{re.escape(end)}'
    if page.count(start) != 1 or page.count(end) != 1 or not re.search(pattern, page, re.S):
        raise ValueError(f'The page should have {start} and, after it, {end}, once each, but has '
                         f'{page.count(start)} and {page.count(end)}; add both, each on a separate '
                         f'line, or name a new file')
    return re.sub(pattern, lambda _: block, page, flags=re.S)
