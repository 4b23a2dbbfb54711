# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Find every object of some classes, and describe each."""

from __future__ import annotations

from collections.abc import Sequence

from mmdpad.prompts import (
    MAX_OBJECTS,
    Places,
    format_detections,
    locate_detections,
    parse_detections,
)
from mmdpad.registry import TASKS
from mmdpad.structures import AnsweredObject

from .task import Parsed, Task, check_max_objects


@TASKS.register_module()
class DetectionTask(Task):
    """Detect every object of the classes that a question names: a box, a label and a description
    that tells it apart from the others. An answer has no points, no masks and no caption.

    Args:
        max_objects: Maximum number of objects in an answer; a longer one cannot be used.
        template: See :class:`Task`.
    """

    template = 'detection'
    has_labels = True
    texts = ('think', )

    def __init__(self, max_objects: int = MAX_OBJECTS, template: str | None = None) -> None:
        super().__init__(template)
        check_max_objects(max_objects)
        self.max_objects = max_objects

    def parse(self, text: str) -> Parsed:
        """See :func:`mmdpad.prompts.parse_detections`."""
        return parse_detections(text, self.max_objects)

    def locate(self, text: str) -> list[Places]:
        """See :func:`mmdpad.prompts.locate_detections`."""
        return locate_detections(text)

    def compose(self, think: str, objects: Sequence[AnsweredObject], caption: str | None = None,
                answer: str | None = None, coordinates: str = 'pixels') -> str:
        """Write the ideal response; objects need labels."""
        return format_detections(think, [(item.box or (), item.label or '', item.description)
                                         for item in objects], coordinates)
