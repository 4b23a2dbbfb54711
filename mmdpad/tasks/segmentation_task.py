# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Find the object, or the objects, that a question means, and describe them."""

from __future__ import annotations

from collections.abc import Sequence

from mmdpad.prompts import (
    MAX_OBJECTS,
    format_objects_response,
    format_response,
    parse_response,
)
from mmdpad.registry import TASKS
from mmdpad.structures import AnsweredObject

from .task import Parsed, Task, check_max_objects


@TASKS.register_module()
class SegmentationTask(Task):
    """Segment what a question means: a box and points, which the mask decoder gets, and a caption.

    Args:
        several_objects: An answer is a list of objects, empty if no object matches. Otherwise it is
            a single object.
        max_objects: Maximum number of objects in such a list; a longer answer cannot be used.
        reference_compatible: See :func:`mmdpad.prompts.parse_response`.
        template: See :class:`Task`; None for 'several_objects' or 'default', as ``several_objects``
            says.
        negative_points: Objects may have points that are not of them, which the mask decoder gets
            as such, see :func:`mmdpad.prompts.parse_response`. The prompt has to ask for them, as
            the template 'negative_points' does, which implies it.
    """

    decodes_masks = True
    negative_points = False

    def __init__(self, several_objects: bool = False, max_objects: int = MAX_OBJECTS,
                 reference_compatible: bool = False, template: str | None = None,
                 negative_points: bool = False) -> None:
        super().__init__(template or ('several_objects' if several_objects else 'default'))
        check_max_objects(max_objects)
        self.several_objects = several_objects
        self.max_objects = max_objects
        self.reference_compatible = reference_compatible
        if negative_points or template == 'negative_points':  # only then in result files
            self.negative_points = True

    def parse(self, text: str) -> Parsed:
        """See :func:`mmdpad.prompts.parse_response`."""
        return parse_response(text, self.reference_compatible, self.several_objects,
                              self.max_objects, self.negative_points)

    def compose(self, think: str, objects: Sequence[AnsweredObject], caption: str | None = None,
                answer: str | None = None, coordinates: str = 'pixels') -> str:
        """Write the ideal response; objects need points.

        Raises:
            ValueError: The answer is a single object, but there is another number of them.
        """
        read = [(item.box or (), item.points or (), item.negative_points) for item in objects]
        if self.several_objects:
            return format_objects_response(think, read, caption or '', coordinates)
        if len(read) != 1:
            raise ValueError(f'An answer about one object should have one target, but has '
                             f'{len(read)}; set `several_objects=True`, also in the model, or '
                             f'leave the question out')
        box, points, negatives = read[0]
        return format_response(think, box, points, caption or '', coordinates, negatives)
