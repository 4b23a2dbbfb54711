# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What a response says, or why it cannot be used."""

from __future__ import annotations

from dataclasses import dataclass

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class AnsweredObject:
    """One object of an answer, as the model wrote it, in pixels of the prompt image (or, straight
    from :func:`mmdpad.prompts.parse_response`, in the coordinates that the model writes).

    Attributes:
        box: (x1, y1, x2, y2); None where it could not be read.
        points: (x, y) of two points, or of one where an answer may name several objects; None
            where they could not be read.
    """

    box: Box | None
    points: tuple[Point, ...] | None


class _Objects:
    """What an answer with ``objects`` says of its first, often its only one."""

    objects: tuple[AnsweredObject, ...]

    @property
    def box(self) -> Box | None:
        """The first object's box; None without one."""
        return self.objects[0].box if self.objects else None

    @property
    def points(self) -> tuple[Point, ...] | None:
        """The first object's points; None without any."""
        return self.objects[0].points if self.objects else None


@dataclass(frozen=True)
class ReasoningOutput(_Objects):
    """The parts of a response whose answer can be used.

    Attributes:
        think: Text between the think tags, stripped; None when the tags are missing.
        caption: Text between the caption tags, stripped; None when the tags are missing.
        objects: What the answer names, each with box and points. One, unless the answer may be a
            list; none then means that nothing in the image is meant ("no target").
    """

    think: str | None
    caption: str | None
    objects: tuple[AnsweredObject, ...]


@dataclass(frozen=True)
class ParseFailure(_Objects):
    """A response without a usable answer: data, not an error.

    Attributes:
        reason: One of ``mmdpad.prompts.parser.FAILURE_REASONS``; what metrics count by.
        detail: One line for a person: what was found.
        think, caption: The other parts, as in :class:`ReasoningOutput`; they may be present.
        objects: Entries of the answer, with whatever of each could be read.
    """

    reason: str
    detail: str
    think: str | None = None
    caption: str | None = None
    objects: tuple[AnsweredObject, ...] = ()
