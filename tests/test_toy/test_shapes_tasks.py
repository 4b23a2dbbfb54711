# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Detection and questions with answers in the world of shapes, against other witnesses."""
from collections import Counter

import cv2
import numpy as np

from mmdpad.toy.shapes_tasks import (
    QUESTION_KINDS,
    answered_questions_of,
    draw_answered_question,
    list_answered_questions,
    name_objects,
    outer_box,
)
from mmdpad.toy.shapes_world import COLORS, SHAPES, SIZES, ShapeObject, make_scene

SCENES = [make_scene('val', i) for i in range(40)]


def place(name: str, x: float, y: float) -> ShapeObject:
    """A diamond of ten pixels around a point."""
    size, color, shape = name.split()
    return ShapeObject(shape, color, size, np.array([[x - 5, y], [x, y - 5], [x + 5, y],
                                                     [x, y + 5]], float))


def answer_by_reading(text: str, objects, width: int, height: int) -> tuple[str, set[int]]:
    """The answer and the evidence of a question, from its words alone."""
    words = text.rstrip('?').split()

    def fits(item: ShapeObject, given: list[str]) -> bool:
        return all(word in (item.size, item.color, item.shape) for word in given
                   if word in (*SIZES, *COLORS, *SHAPES))

    if words[:2] == ['how', 'many']:
        found = [i for i, item in enumerate(objects)
                 if fits(item, [word.removesuffix('s') for word in words[2:]])]
        return str(len(found)), {*found}
    if words[:2] == ['is', 'there']:
        found = [i for i, item in enumerate(objects) if fits(item, words[3:])]
        return 'yes' if found else 'no', {*found}
    centers = np.array([item.center for item in objects])
    if 'nearest' in words:
        axis, pick = dict(left=(0, np.argmin), right=(0, np.argmax), top=(1, np.argmin),
                          bottom=(1, np.argmax))[words[-1]]
        found = [int(pick(centers[:, axis]))]
    elif side := {'left', 'right', 'above', 'below'} & {*words}:
        anchor, = (i for i, item in enumerate(objects) if item.shape == words[-1])
        x, y = (centers - centers[anchor]).T
        found = np.flatnonzero(dict(left=x < 0, right=x > 0, above=y < 0,
                                    below=y > 0)[side.pop()]).tolist()
    else:
        found = [i for i, item in enumerate(objects) if fits(item, words[4:])]
    target, = found
    return getattr(objects[target], words[1]), {target}


def test_answers_and_evidence_are_those_that_the_words_ask_for():
    kinds = Counter()
    for scene in SCENES:
        height, width = scene.image.shape[:2]
        questions = list_answered_questions(scene.objects, width, height)
        assert len({question.text for question in questions}) == len(questions)
        for question in questions:
            kinds[question.kind] += 1
            assert (question.answer, {*question.evidence}) == answer_by_reading(
                question.text, scene.objects, width, height), question.text
    assert kinds.keys() == {*QUESTION_KINDS} and min(kinds.values()) >= 20


def test_what_is_hardly_beside_or_not_alone_is_not_asked_for():
    left, star = place('big red circle', 20, 50), place('small blue star', 50, 50)

    def asks(*others):
        texts = [q.text for q in list_answered_questions((*others, star), 100, 100)]
        return 'what color is the object left of the star?' in texts

    assert asks(left)
    assert not asks(left, place('big green square', 30, 80))
    assert not asks(place('big red circle', 45, 20))
    assert not asks(left, place('big green star', 80, 80))


def test_questions_of_a_scene_are_the_same_each_time_and_differ_from_each_other():
    drawn = [answered_questions_of(scene, 'val', i, count=3) for i, scene in enumerate(SCENES)]
    assert drawn == [answered_questions_of(scene, 'val', i, count=3)
                     for i, scene in enumerate(SCENES)]
    assert all(len({question.text for question in some}) == 3 for some in drawn)
    assert drawn[0] != answered_questions_of(SCENES[0], 'val', 0, seed=1, count=3)
    assert drawn[0] != answered_questions_of(SCENES[0], 'test', 0, count=3)


def test_no_answer_is_much_more_frequent_than_others_of_its_kind():
    rng = np.random.default_rng(0)
    counts = {kind: Counter() for kind in QUESTION_KINDS}
    for scene in SCENES:
        questions = list_answered_questions(scene.objects, *scene.image.shape[1::-1])
        for _ in range(30):
            question = draw_answered_question(rng, questions)
            counts[question.kind][question.answer] += 1
    for kind, number in (('exists', 2), ('size', 2)):
        assert len(counts[kind]) == number
        assert min(counts[kind].values()) > 0.35 * counts[kind].total()
    assert max(counts['count'].values()) < 0.5 * counts['count'].total()


def test_reasoning_names_all_or_none():
    objects = place('big red circle', 20, 50), place('small blue star', 50, 50)
    assert name_objects(objects) == 'there is a big red circle, a small blue star.'
    assert name_objects(()) == 'there is none.'


def test_an_outer_box_is_the_one_that_a_drawing_covers():
    for scene in SCENES[:10]:
        for item in scene.objects:
            mask = np.zeros(scene.image.shape[:2], np.uint8)
            cv2.fillPoly(mask, [np.round(item.polygon).astype(np.int32)], 1)
            ys, xs = np.nonzero(mask)
            drawn = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
            assert np.abs(np.subtract(outer_box(item), drawn)).max() <= 1
