# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""One error for everything that is wrong with a data set's files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

SHOWN = 5


class DatasetError(ValueError):
    """A file of a data set is missing, broken or unusable; the message names it and the hint.

    Attributes:
        kind: What is wrong, in two or three words that problems of one kind share.
        problems: All problems of a data set where this is their list, else this one.
        where: The data set that was checked, where this is the list of its problems.

    Args:
        message: One sentence that names the file, the constraint and the hint.
        kind: See above.
    """

    def __init__(self, message: str, kind: str = 'unusable file') -> None:
        super().__init__(message)
        self.kind = kind
        self.where: str | None = None
        self.problems: tuple[DatasetError, ...] = (self, )

    @classmethod
    def listing(cls, where: str, problems: Sequence[DatasetError],
                shown: int | None = SHOWN) -> DatasetError:
        """Put all problems of one data set into one error: how many of each kind, and the first
        of them.

        Args:
            where: The data set that was checked.
            problems: At least one.
            shown: How many of a kind the message shows; None for all.
        """
        kinds: dict[str, list[DatasetError]] = {}
        for problem in problems:
            kinds.setdefault(problem.kind, []).append(problem)
        lines = [f'{len(problems)} problem(s) in the data set {where}:']
        for kind, group in kinds.items():
            lines.append(f'{kind} ({len(group)}):')
            lines += [f'  - {problem}' for problem in group[:shown]]
            if shown is not None and len(group) > shown:
                lines.append(f'  ... and {len(group) - shown} more')
        error = cls('\n'.join(lines), 'several')
        error.where, error.problems = where, tuple(problems)
        return error

    def in_full(self) -> str:
        """The message with every problem, where :meth:`listing` shows some of each kind."""
        return str(self if self.where is None else
                   self.listing(self.where, self.problems, shown=None))


@contextmanager
def collecting(problems: list[DatasetError]) -> Iterator[None]:
    """Put a :class:`DatasetError` of the block into the list, so that the checks go on."""
    try:
        yield
    except DatasetError as error:
        problems.append(error)
