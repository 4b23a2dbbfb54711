# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The error for all problems with the files of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager

SHOWN = 5


class DatasetError(ValueError):
    """A file of a data set is missing, broken or unusable; the message names it and the fix.

    Attributes:
        kind: The problem in two or three words, which problems of the same kind share.
        problems: All problems of a data set if this error lists them, otherwise just this one.
        where: The data set that was checked, if this error lists its problems.

    Args:
        message: One sentence with the file, the constraint and the fix.
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
        """Combine all problems of a data set into one error, with the number and the first few of
        each kind.

        Args:
            where: The data set that was checked.
            problems: At least one; one that occurs repeatedly is listed once.
            shown: How many problems of each kind the message shows; None for all.
        """
        problems = list(dict.fromkeys(part for problem in problems for part in problem.problems))
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

    @classmethod
    def of_entry(cls, problems: Sequence[DatasetError]) -> DatasetError:
        """All problems with one entry of a file as one error."""
        error = cls('; '.join(map(str, problems)), problems[0].kind)
        error.problems = tuple(problems)
        return error

    def in_full(self) -> str:
        """The message with every problem; :meth:`listing` shows only some of each kind."""
        return str(self if self.where is None else
                   self.listing(self.where, self.problems, shown=None))


@contextmanager
def collecting(problems: list[DatasetError]) -> Iterator[None]:
    """Append a :class:`DatasetError` raised in the block to the list, so that checks continue."""
    try:
        yield
    except DatasetError as error:
        problems.append(error)


def show_names(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - SHOWN
    return ', '.join(names[:SHOWN]) + (f' and {more} more' if more > 0 else '')


def find_duplicates(ids: Iterable[Hashable], name: str, where: str) -> Iterator[DatasetError]:
    """Yield a problem for each id that occurs more than once; ``name`` names the kind of id."""
    yield from duplicates_by_id(ids, name, where).values()


def duplicates_by_id(ids: Iterable[Hashable], name: str,
                     where: str) -> dict[Hashable, DatasetError]:
    """The problems of :func:`find_duplicates` by id."""
    return {value: DatasetError(
        f'{where} has {name} {value!r} {count} times; ids should differ: rename or remove all but '
        'one', 'duplicate id') for value, count in Counter(ids).items() if count > 1}
