# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Two further tasks in the world of shapes: detection by shape, and questions answered in words.

Classes are :data:`.shapes_world.SHAPES`, so that descriptions have something to tell apart: objects
of a class that differ in color and size.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .shapes_world import (
    COLORS,
    SHAPES,
    SIZES,
    SPLITS,
    Scene,
    ShapeObject,
    find_extremes,
)

SHAPES_DETECTION_TEMPLATE = 'detect "{question}"'
"""Prompt template for detection, as :data:`.shapes_world.SHAPES_PROMPT_TEMPLATE`."""

SHAPES_ANSWER_TEMPLATE = 'answer "{question}"'
"""Prompt template for questions with answers in words."""

QUESTION_KINDS = ('color', 'shape', 'size', 'count', 'exists', 'relation')
"""What the questions ask for."""

SIDES = dict(left=(0, -1), right=(0, 1), above=(1, -1), below=(1, 1))
"""Side of an object -> axis (0 for x) and direction in pixels."""

_CLEAR = 0.1
_STREAM = 1  # of random numbers; scenes have none of their own


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question with its answer in words.

    Attributes:
        text: The question, lower case.
        kind: One of `QUESTION_KINDS`.
        answer: The only right answer: a color, shape, size, number, 'yes' or 'no'.
        evidence: Indices of the objects that show it; empty if there is nothing to be seen.
    """

    text: str
    kind: str
    answer: str
    evidence: tuple[int, ...]


def answered_questions_of(scene: Scene, split: str, index: int, seed: int = 0,
                          count: int = 2) -> list[AnsweredQuestion]:
    """Questions about scene `index` of a split (:func:`.shapes_world.make_scene`), all different.
    Equal arguments give equal questions.

    Args:
        scene: The scene.
        split, index, seed: Those that it was made with.
        count: Number of questions.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index, _STREAM])
    height, width = scene.image.shape[:2]
    left = list_answered_questions(scene.objects, width, height)
    found = []
    for _ in range(min(count, len(left))):
        found.append(left.pop(left.index(draw_answered_question(rng, left))))
    return found


def draw_answered_question(rng: np.random.Generator,
                           questions: Sequence[AnsweredQuestion]) -> AnsweredQuestion:
    """Draw a kind, then one of its answers, then a question, so that no answer is much more
    frequent than others of its kind."""
    for key in ('kind', 'answer'):
        values = sorted({getattr(question, key) for question in questions})
        value = values[int(rng.integers(len(values)))]
        questions = [question for question in questions if getattr(question, key) == value]
    return questions[int(rng.integers(len(questions)))]


def list_answered_questions(objects: Sequence[ShapeObject], width: int,
                            height: int) -> list[AnsweredQuestion]:
    """List every question about a scene that has one right answer, in a fixed order.

    Args:
        objects: The scene's objects.
        width: Image width in pixels.
        height: Image height in pixels.
    """
    by_shape = {shape: _where(objects, shape=shape) for shape in SHAPES}
    by_color = {f'{color} object': _where(objects, color=color) for color in COLORS}
    by_size = {f'{size} {shape}': _where(objects, size=size, shape=shape)
               for size in SIZES for shape in SHAPES}
    by_both = {f'{color} {shape}': _where(objects, color=color, shape=shape)
               for color in COLORS for shape in SHAPES}
    by_place = {f'object nearest to the {side}': (target, ) for side, target in
                find_extremes(objects, range(len(objects)), width, height)}
    found = []
    for kind, groups in (('color', by_shape | by_size | by_place), ('shape', by_color | by_place),
                         ('size', by_shape | by_color | by_both)):
        found += [AnsweredQuestion(f'what {kind} is the {name}?', kind,
                                   getattr(objects[members[0]], kind), members)
                  for name, members in groups.items() if len(members) == 1]
    found += [AnsweredQuestion(f'how many {name}s?', 'count', str(len(members)), members)
              for name, members in (by_shape | by_color).items()]
    found += [AnsweredQuestion(f'is there a {name}?', 'exists', 'yes' if members else 'no', members)
              for name, members in by_both.items()]
    for shape, members in by_shape.items():
        for side in SIDES if len(members) == 1 else ():
            beside = _beside(objects, members[0], side, width, height)
            if beside is not None:
                place = f'{side} of' if side in ('left', 'right') else side
                found.append(AnsweredQuestion(f'what color is the object {place} the {shape}?',
                                              'relation', objects[beside].color, (beside, )))
    return found


def name_objects(objects: Sequence[ShapeObject]) -> str:
    """Reasoning that names some objects, or none, without tags."""
    return f'there is {", ".join(f"a {item.name}" for item in objects) or "none"}.'


def outer_box(item: ShapeObject) -> tuple[float, float, float, float]:
    """The box of an object as in COCO, (x1, y1, x2, y2) in pixels of the original frame: a pixel
    spans from its index to the next, while outlines count its center as its index."""
    x1, y1, x2, y2 = (round(value + 0.5, 2) for value in item.box)
    return x1, y1, x2, y2


def _where(objects: Sequence[ShapeObject], **attributes: str) -> tuple[int, ...]:
    """Indices of the objects with these attributes."""
    return tuple(i for i, item in enumerate(objects)
                 if all(getattr(item, name) == value for name, value in attributes.items()))


def _beside(objects: Sequence[ShapeObject], anchor: int, side: str, width: int,
            height: int) -> int | None:
    """The only object on a side of another one; None if there is none, or several, or one that is
    hardly on that side."""
    axis, direction = SIDES[side]
    shifts = {i: direction * (item.center[axis] - objects[anchor].center[axis])
              / (width, height)[axis] for i, item in enumerate(objects) if i != anchor}
    beside = [i for i, shift in shifts.items() if shift > 0]
    return beside[0] if len(beside) == 1 and shifts[beside[0]] >= _CLEAR else None
