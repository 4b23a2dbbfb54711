# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Training data of the start policy of detection and question answering.

Answers have mistakes of several kinds, each drawn on its own: none of them tells about another, so
that rewards find each of them, and have to find it themselves.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from common import targets_of, to_model_image
from policy_data import CAPTION_KINDS, CAPTION_SHARES, Row, RowMaker, grow, make_grid

from mmdpad.geometry.coordinates import scale_boxes
from mmdpad.prompts import format_detections, format_question_answer
from mmdpad.toy.shapes_tasks import (
    SHAPES_ANSWER_TEMPLATE,
    SHAPES_DETECTION_TEMPLATE,
    AnsweredQuestion,
    draw_answered_question,
    list_answered_questions,
    name_objects,
    outer_box,
)
from mmdpad.toy.shapes_world import (
    GENERIC_CAPTIONS,
    SHAPES,
    SHAPES_IMAGE_SIZE,
    Scene,
    captions_of,
    draw_scene,
)

LOOSE, GROWTH = 0.4, 1.8
"""Share of loose boxes, and their sides over those of tight ones."""
MISSING, REPEATED = 0.15, 0.12
"""Shares of objects that detections leave out, and name twice."""
WRONG_EVIDENCE, WRONG_ANSWER = 0.3, 0.15
"""Shares of evidence that is another object, and of answers that are wrong."""


class TaskRowMaker(RowMaker):
    """Makes rows of questions about classes and of questions with answers in words.

    Args:
        processor, seed: As for `RowMaker`.
        asks: What each question about an image is: 'detect', about classes, or 'answer', with an
            answer in words.
        classes: Smallest and largest number of classes in one of them; all are asked for in their
            order, fewer in any.
    """

    def __init__(self, processor, seed: int, asks: Sequence[str], classes: tuple[int, int]):
        super().__init__(processor, seed)
        self.asks, self.classes = asks, classes

    def __call__(self, list_all: float = 0.0) -> Row:
        """Draw a scene and questions; there are no list-all questions."""
        rng = self.rng
        scene = draw_scene(rng)
        targets = targets_of(scene)
        row = Row(to_model_image(scene.image, rng), [], [], make_grid(scene, targets))
        height, width = scene.image.shape[:2]
        questions = list_answered_questions(scene.objects, width, height)
        outer = scale_boxes(torch.tensor([outer_box(item) for item in scene.objects]),
                            (height, width), SHAPES_IMAGE_SIZE[::-1]).tolist()
        inner = [box for box, _ in targets]
        for ask in self.asks:
            if ask == 'detect':
                classes = self.draw_classes()
                prompt = SHAPES_DETECTION_TEMPLATE.format(question=', '.join(classes))
                response = self.detect(scene, classes, outer)
            else:
                question = draw_answered_question(rng, questions)
                prompt = SHAPES_ANSWER_TEMPLATE.format(question=question.text)
                response = self.reply(scene, question, questions, inner)
            asked = self.encode(prompt + self.after)
            row.tokens.append(asked + self.encode(response + '<|im_end|>'))
            row.asked.append(len(asked))
        return row

    def draw_classes(self) -> list[str]:
        """The classes of a question."""
        least, most = self.classes
        if least == len(SHAPES):
            return list(SHAPES)
        return self.rng.permutation(SHAPES)[:self.rng.integers(least, most + 1)].tolist()

    def detect(self, scene: Scene, classes: list[str], boxes: list[list[float]]) -> str:
        """Write a response with the objects of some classes; `boxes` are those of all objects."""
        rng = self.rng
        found = [i for i, item in enumerate(scene.objects)
                 if item.shape in classes and rng.random() >= MISSING]
        named = [i for i in found for _ in range(1 + (rng.random() < REPEATED))]
        return format_detections(
            name_objects([scene.objects[i] for i in found]),
            [(self.locate(boxes[i]), scene.objects[i].shape, self.describe(scene, i))
             for i in named])

    def reply(self, scene: Scene, question: AnsweredQuestion, questions: list[AnsweredQuestion],
              boxes: list[list[int]]) -> str:
        """Write a response to a question with an answer in words."""
        rng = self.rng
        answer, shown = question.answer, list(question.evidence)
        think = name_objects([scene.objects[i] for i in shown])
        if rng.random() < WRONG_ANSWER:
            answers = sorted({other.answer for other in questions if other.kind == question.kind})
            answer = answers[rng.integers(len(answers))]
        caption = (self.describe(scene, shown[0]) if shown
                   else GENERIC_CAPTIONS[rng.integers(len(GENERIC_CAPTIONS))])
        others = [i for i in range(len(boxes)) if i not in shown]
        if shown and others and rng.random() < WRONG_EVIDENCE:
            shown = [others[rng.integers(len(others))]]
        return format_question_answer(think, answer, [self.locate(boxes[i]) for i in shown],
                                      caption)

    def locate(self, box: list[float]) -> list[int]:
        """A box, sometimes a loose one."""
        return grow(box, GROWTH if self.rng.random() < LOOSE else 1.0)

    def describe(self, scene: Scene, index: int) -> str:
        """A description of an object: specific, generic or of another object."""
        captions = captions_of(scene.objects, index)
        texts = captions[CAPTION_KINDS[self.rng.choice(3, p=CAPTION_SHARES)]] or (
            captions['generic'])
        return texts[self.rng.integers(len(texts))]
