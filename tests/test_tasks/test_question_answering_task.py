# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Answering a question in words, with evidence."""
import itertools
import json

import pytest
from hostile_texts import hostile_texts

from mmdpad.geometry.coordinates import to_model_frame
from mmdpad.prompts import FAILURE_REASONS, follows_template
from mmdpad.prompts.template import EXAMPLES
from mmdpad.structures import AnsweredObject, ParseFailure, ReasoningOutput
from mmdpad.tasks import QuestionAnsweringTask

CUP = AnsweredObject((1.0, 2.0, 30.0, 40.0), None)
PLATE = AnsweredObject((5.0, 6.0, 7.0, 8.0), None)
BOX = [1, 2, 3, 4]


def answer(**values):
    return f'<think>so</think><answer>{json.dumps(values)}</answer><caption>a cup</caption>'


def parse(**values):
    return QuestionAnsweringTask().parse(answer(**values))


@pytest.mark.parametrize('objects', [(), (CUP, ), (CUP, PLATE)])
def test_what_is_composed_is_read_back(objects):
    task = QuestionAnsweringTask()
    text = task.compose('so', objects, 'a cup', 'two "big" ones')
    assert task.parse(text) == ReasoningOutput('so', 'a cup', objects, 'two "big" ones')
    assert follows_template(text)
    with pytest.raises(ValueError, match='there is none; add `answers`'):
        task.compose('so', objects, 'a cup')


def test_the_example_of_the_template_is_read():
    found = QuestionAnsweringTask().parse(EXAMPLES['question_answering'])
    assert found.answer == 'your answer' and len(found.objects) == 2 and found.caption


@pytest.mark.parametrize('values, wanted', [
    (dict(answer=' red '), 'red'), (dict(answer='red', evidence=None), 'red'),
    (dict(answer='red', evidence=[]), 'red'), (dict(answer=3), '3'), (dict(answer=2.5), '2.5')])
def test_an_answer_without_evidence_can_be_used(values, wanted):
    found = parse(**values)
    assert isinstance(found, ReasoningOutput)
    assert (found.answer, found.objects) == (wanted, ())


@pytest.mark.parametrize('values, reason', [
    (dict(evidence=[BOX]), 'missing_key'), (dict(answer='', evidence=[BOX]), 'bad_value'),
    (dict(answer=None), 'bad_value'), (dict(answer=True), 'bad_value'),
    (dict(answer=['red']), 'bad_value'), (dict(answer=float('nan')), 'bad_value'),
    (dict(answer='red', evidence=BOX), 'bad_value'),
    (dict(answer='red', evidence='x'), 'bad_value'),
    (dict(answer='red', evidence=[BOX, BOX[:3]]), 'bad_value'),
    (dict(answer='red', evidence=[[3, 2, 3, 4]]), 'empty_box')])
def test_a_response_that_cannot_be_used_says_why(values, reason):
    found = parse(**values)
    assert isinstance(found, ParseFailure) and found.reason == reason and found.caption == 'a cup'
    assert found.answer == (values.get('answer') if values.get('answer') == 'red' else None)


def test_evidence_without_an_answer_is_kept_for_the_rewards():
    assert parse(evidence=[BOX]).objects == (AnsweredObject((1.0, 2.0, 3.0, 4.0), None), )


def test_no_more_boxes_are_read_than_allowed():
    assert parse(answer='red', evidence=[BOX] * 101).reason == 'too_many'
    assert parse(answer='red', evidence=[BOX] * 10_000).reason in ('too_many', 'no_json')
    assert QuestionAnsweringTask(max_objects=1).parse(
        answer(answer='red', evidence=[BOX] * 2)).reason == 'too_many'


def test_no_text_raises():
    task, good = QuestionAnsweringTask(), answer(answer='red', evidence=[BOX])
    texts = [good[:cut] for cut in range(len(good))] + [
        good.replace('"red"', text) for text in ('{"a":' * 2000, '[' * 9000, '9' * 5000, '1e999')]
    for text in (*texts, *itertools.islice(hostile_texts(0), 300)):
        found = task.parse(text)
        to_model_frame(found, 'relative_1000', (84, 126))
        if isinstance(found, ParseFailure):
            assert found.reason in FAILURE_REASONS and 0 < len(found.detail) < 300
        else:
            assert found.answer and all(item.box[0] < item.box[2] for item in found.objects)
