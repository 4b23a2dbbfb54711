# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What a check found, and how it is printed."""

from __future__ import annotations

from dataclasses import dataclass

_COLOURS = dict(ok='32', missing='31', wrong='31', optional='33')


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        status: 'ok'; 'missing' or 'wrong', without which the miniature does not run; 'optional',
            absent, too, but needed for other things only.
        name: What was looked at.
        detail: What was found; more than one line is set off.
        hint: The command that mends it; empty where nothing is to be done.
    """

    status: str
    name: str
    detail: str = ''
    hint: str = ''

    @property
    def is_fault(self) -> bool:
        return self.status in ('missing', 'wrong')


def format_finding(finding: Finding, color: bool) -> str:
    """A line with a column for the status, and below it a hint.

    Args:
        finding: What was found.
        color: Whether the status has the color of a terminal.
    """
    status = f'{finding.status:8}'
    if color:
        status = f'\033[{_COLOURS[finding.status]}m{status}\033[0m'
    indent = '\n' + ' ' * 12
    detail = finding.detail.replace('\n', indent)
    text = f'{finding.name}: {detail}' if detail else finding.name
    hint = f'{indent}-> {finding.hint}' if finding.hint else ''
    return f'  {status}  {text}{hint}'
