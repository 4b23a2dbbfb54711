# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The base of all tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from mmdpad.prompts import Places, build_messages
from mmdpad.structures import AnsweredObject, ParseFailure, ReasoningOutput
from mmdpad.utils.number_checks import check_number

Parsed = ReasoningOutput | ParseFailure


class Task(ABC):
    """How a question is put to the policy, and how its response is read.

    Rewards and metrics belong to a task by name: a reward term by its ``tasks``
    (:class:`mmdpad.rewards.RewardComposition`), a metric by the evaluator of a data set. Everything
    else is the same for all tasks.

    Args:
        template: Prompt template, see :func:`mmdpad.prompts.build_messages`; None for the class's.

    Attributes:
        template: As above.
        decodes_masks: Whether the mask decoder is asked for the masks of an answer's objects, which
            then need a box and points.
        several_objects: Whether an answer may have any number of objects, none included. Otherwise
            it has one.
        has_objects: Whether an answer names objects. Otherwise its ideal response needs no targets.
        has_labels: Whether an answer's objects have a box and a label, so that a box scorer
            (:mod:`mmdpad.models.scorers`) gives each a score.
        needs_targets: Whether the ideal response needs targets, if answers name objects. Otherwise
            it names none if the data have no boxes.
        texts: What an annotation has to give, besides its targets, for an ideal response
            (:class:`mmdpad.datasets.transforms.ComposeResponse`): some of 'think', 'caption' and
            'answer'.

    Raises:
        ValueError: The template has no ``{question}``, or an unknown placeholder.
    """

    template: str
    decodes_masks: bool = False
    several_objects: bool = True
    has_objects: bool = True
    has_labels: bool = False
    needs_targets: bool = True
    texts: tuple[str, ...] = ('think', 'caption')

    def __init__(self, template: str | None = None) -> None:
        if template is not None:
            self.template = template
        build_messages('', self.template)

    @abstractmethod
    def parse(self, text: str) -> Parsed:
        """Read a response, in time linear in its length. Never raises.

        Args:
            text: Anything a model may have written.

        Returns:
            Boxes and points are in the coordinates that the policy writes.
        """

    def locate(self, text: str) -> list[Places]:
        """Find the entries of the objects of a response in its text, in time linear in its length.

        Args:
            text: Anything a model may have written.

        Returns:
            The places of each object that :meth:`parse` reads from a usable response, in its order.

        Raises:
            NotImplementedError: A task with ``has_labels`` has to define this for scores from the
                likelihood of a response.
        """
        raise NotImplementedError(f'{type(self).__name__} should define `locate`')

    @abstractmethod
    def compose(self, think: str, objects: Sequence[AnsweredObject], caption: str | None = None,
                answer: str | None = None, coordinates: str = 'pixels') -> str:
        """Write the ideal response, from which :meth:`parse` reads the same.

        Args:
            think: The reasoning; empty if ``texts`` does not name it.
            objects: The targets (none without ``has_objects``), in the coordinates that the policy
                writes. They have whatever the answer of this task has.
            caption, answer: Further texts, if the task has them (``texts``).
            coordinates: Those coordinates, to which boxes and points are rounded, see
                :func:`mmdpad.prompts.format_response`.
        """


def check_max_objects(max_objects: int) -> None:
    """Raise ValueError unless an answer may hold at least one object."""
    check_number('max_objects', max_objects, 'at least 1', lambda n: n >= 1, True)
