# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""One error for everything that is wrong with a data set's files."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 5


class DatasetError(ValueError):
    """A file of a data set is missing, broken or unusable; the message names it and the remedy.

    Attributes:
        kind: What is wrong, in two or three words that problems of one kind share.
        problems: All problems of a data set where there are several, else this one.

    Args:
        message: One sentence that names the file, the constraint and the remedy.
        kind: See above.
    """

    def __init__(self, message: str, kind: str = 'unusable file') -> None:
        super().__init__(message)
        self.kind = kind
        self.problems: tuple[DatasetError, ...] = (self, )

    @classmethod
    def listing(cls, where: str, problems: Sequence[DatasetError]) -> DatasetError:
        """Put all problems of one data set into one error: how many of each kind, and the first
        of them.

        Args:
            where: The data set that was checked.
            problems: At least one.
        """
        kinds: dict[str, list[DatasetError]] = {}
        for problem in problems:
            kinds.setdefault(problem.kind, []).append(problem)
        lines = [f'{len(problems)} problem(s) in the data set {where}:']
        for kind, group in kinds.items():
            lines.append(f'{kind} ({len(group)}):')
            lines += [f'  - {problem}' for problem in group[:SHOWN]]
            if len(group) > SHOWN:
                lines.append(f'  ... and {len(group) - SHOWN} more')
        error = cls('\n'.join(lines), 'several')
        error.problems = tuple(problems)
        return error
