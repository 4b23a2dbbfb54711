# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The content of a response, or why it cannot be used."""

from __future__ import annotations

from dataclasses import dataclass

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class AnsweredObject:
    """One object in an answer, in pixels of the model image (or, straight from
    :func:`mmdpad.prompts.parse_response`, in the coordinates that the policy writes).

    Attributes:
        box: (x1, y1, x2, y2); None if it could not be read, or the task asks for none.
        points: (x, y) of two points, or of one if an answer may list several objects; None if
            they could not be read, or the task asks for none.
        label: The name of the object's class; None if the task asks for none.
        description: Tells the object apart from the others; None if the task asks for none, or it
            is missing.
        negative_points: (x, y) of points that are not of the object; empty unless the task uses
            them (:class:`mmdpad.tasks.SegmentationTask`).
    """

    box: Box | None
    points: tuple[Point, ...] | None
    label: str | None = None
    description: str | None = None
    negative_points: tuple[Point, ...] = ()


class _Objects:
    """Shortcuts to the first, and often only, object in ``objects``."""

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
    """The parts of a response with a usable answer.

    Attributes:
        think: Text between the think tags, stripped; None if the tags are missing.
        caption: Text between the caption tags, stripped; None if the tags are missing.
        objects: The objects in the answer, each with whatever the task asks for. Exactly one,
            unless the answer may be a list; an empty list means "no target".
        answer: The answer in words; None if the task asks for none.
    """

    think: str | None
    caption: str | None
    objects: tuple[AnsweredObject, ...]
    answer: str | None = None


@dataclass(frozen=True)
class ParseFailure(_Objects):
    """A response without a usable answer: data, not an error.

    Attributes:
        reason: One of ``mmdpad.prompts.parser.FAILURE_REASONS``, by which metrics count.
        detail: One line for people: what was found.
        think, caption, answer: The other parts, if present, as in :class:`ReasoningOutput`.
        objects: The entries of the answer, each with whatever could be read.
    """

    reason: str
    detail: str
    think: str | None = None
    caption: str | None = None
    objects: tuple[AnsweredObject, ...] = ()
    answer: str | None = None
