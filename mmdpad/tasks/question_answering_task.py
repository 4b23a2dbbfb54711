# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Answer a question in words, and show where the answer is seen."""

from __future__ import annotations

from collections.abc import Sequence

from mmdpad.prompts import MAX_OBJECTS, format_question_answer, parse_question_answer
from mmdpad.registry import TASKS
from mmdpad.structures import AnsweredObject

from .task import Parsed, Task, check_max_objects


@TASKS.register_module()
class QuestionAnsweringTask(Task):
    """Answer a question in words, with boxes of the evidence and a caption of what they hold. The
    objects of an answer are its evidence: boxes without points or labels. It has no masks.

    Args:
        max_objects: Maximum number of boxes in an answer; a longer one cannot be used.
        template: See :class:`Task`.
    """

    template = 'question_answering'
    needs_targets = False
    texts = ('think', 'caption', 'answer')

    def __init__(self, max_objects: int = MAX_OBJECTS, template: str | None = None) -> None:
        super().__init__(template)
        check_max_objects(max_objects)
        self.max_objects = max_objects

    def parse(self, text: str) -> Parsed:
        """See :func:`mmdpad.prompts.parse_question_answer`."""
        return parse_question_answer(text, self.max_objects)

    def compose(self, think: str, objects: Sequence[AnsweredObject], caption: str | None = None,
                answer: str | None = None, coordinates: str = 'pixels') -> str:
        """Write the ideal response; objects need boxes.

        Raises:
            ValueError: There is no answer.
        """
        if not answer:
            raise ValueError('An answer in words is needed, but there is none; add `answers` to '
                             'the question, or leave it out')
        return format_question_answer(think, answer, [item.box or () for item in objects], caption,
                                      coordinates)
