# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The findings of the checks, and how they are printed."""

from __future__ import annotations

from dataclasses import dataclass

_COLORS = dict(ok='32', missing='31', wrong='31', optional='33')


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        status: 'ok'; 'missing' or 'wrong' if the toy model cannot run because of it; 'optional'
            if it is absent but only needed for other uses.
        name: What was checked.
        detail: What was found; several lines are indented.
        hint: The command that fixes it; empty if nothing needs to be done.
    """

    status: str
    name: str
    detail: str = ''
    hint: str = ''

    @property
    def is_fault(self) -> bool:
        return self.status in ('missing', 'wrong')


def format_finding(finding: Finding, color: bool) -> str:
    """A line with a column for the status, and the hint below it.

    Args:
        finding: The finding.
        color: Whether to color the status for a terminal.
    """
    status = f'{finding.status:8}'
    if color:
        status = f'\033[{_COLORS[finding.status]}m{status}\033[0m'
    indent = '\n' + ' ' * 12
    detail = finding.detail.replace('\n', indent)
    text = f'{finding.name}: {detail}' if detail else finding.name
    hint = f'{indent}-> {finding.hint}' if finding.hint else ''
    return f'  {status}  {text}{hint}'
