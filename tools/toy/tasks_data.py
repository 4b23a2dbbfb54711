# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Training data of the start policy of detection and question answering.

Answers have mistakes of several kinds, each drawn on its own: none of them tells about another, so
that rewards find each of them, and have to find it themselves.
"""
from __future__ import annotations

import torch
from common import targets_of, to_model_image
from policy_data import CAPTION_KINDS, CAPTION_SHARES, QUESTIONS, Row, RowMaker, grow, make_grid

from mmdpad.geometry.coordinates import scale_boxes
from mmdpad.prompts import format_detections, format_question_answer
from mmdpad.toy.shapes_tasks import (
    SHAPES_ANSWER_TEMPLATE,
    SHAPES_DETECTION_TEMPLATE,
    AnsweredQuestion,
    draw_answered_question,
    list_answered_questions,
    name_by_class,
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
MOST_CLASSES = 2


class TaskRowMaker(RowMaker):
    """Makes rows of questions about classes and of questions with answers in words.

    Args:
        processor, seed: As for `RowMaker`.
        detections: How many of the `QUESTIONS` about an image are about classes.
        by_class: Detections go class by class, in the order of the question, and so does their
            reasoning; otherwise from left to right.
    """

    def __init__(self, processor, seed: int, detections: int, by_class: bool):
        super().__init__(processor, seed)
        self.detections, self.by_class = detections, by_class

    def __call__(self, list_all: float = 0.0) -> Row:
        """Draw a scene and questions; there are no list-all questions."""
        rng = self.rng
        scene = draw_scene(rng)
        targets = targets_of(scene)
        row = Row(to_model_image(scene.image, rng), [], [], make_grid(scene, targets))
        height, width = scene.image.shape[:2]
        questions = list_answered_questions(scene.objects, width, height)
        outer = scale_boxes(torch.tensor([outer_box(item) for item in scene.objects]), (height, width),
                            SHAPES_IMAGE_SIZE[::-1]).tolist()
        inner = [box for box, _ in targets]
        for number in range(QUESTIONS):
            if number < self.detections:
                classes = rng.permutation(SHAPES)[:rng.integers(1, MOST_CLASSES + 1)].tolist()
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

    def detect(self, scene: Scene, classes: list[str], boxes: list[list[float]]) -> str:
        """Write a response with the objects of some classes; `boxes` are those of all objects."""
        rng = self.rng
        found = [i for i, item in enumerate(scene.objects)
                 if item.shape in classes and rng.random() >= MISSING]
        think = name_objects([scene.objects[i] for i in found])
        if self.by_class:
            found.sort(key=lambda i: classes.index(scene.objects[i].shape))
            think = name_by_class([scene.objects[i] for i in found], classes)
        named = [i for i in found for _ in range(1 + (rng.random() < REPEATED))]
        return format_detections(
            think,
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
