# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest

from mmdpad.prompts import (
    TEMPLATES,
    build_messages,
    normalize_question,
    parse_question_answer,
    parse_response,
)
from mmdpad.structures import ReasoningOutput


@pytest.mark.parametrize('raw, question', [
    ('The dog that barks.', 'the dog that barks'),
    ('  Where... ', 'where'),
    ('No. 5', 'no. 5'),
    ('.', ''),
    ('ÉCLAIR', 'éclair'),
    ('a\ud800 \ud83d\ude00', 'a\ufffd \U0001f600'),  # half a pair, and a pair
])
def test_normalise_question(raw, question):
    assert normalize_question(raw) == question


def test_one_user_turn_with_the_image_before_the_text():
    (turn, ) = build_messages('a cup', 'find "{question}"')
    assert turn['role'] == 'user'
    assert turn['content'] == [{'type': 'image'}, {'type': 'text', 'text': 'find "a cup"'}]


def test_default_template_shows_json_and_keeps_braces_of_the_question():
    text = build_messages('the {odd} one')[0]['content'][1]['text']
    assert '"the {odd} one"' in text and '{"bbox": [10, 100, 200, 210]' in text


def test_a_template_by_name_may_leave_the_caption_out():
    text = build_messages('a cup', 'without_caption')[0]['content'][1]['text']
    assert 'caption' not in text and text.endswith('</answer>')
    assert '<caption>' in build_messages('a cup', 'default')[0]['content'][1]['text']


@pytest.mark.parametrize('template', ['find it', 'find {}', '{question} {other}', '{question',
                                      TEMPLATES['default'].replace('{{', '{')])
def test_a_template_without_its_placeholder_is_refused(template):
    with pytest.raises(ValueError, match='prompt_template'):
        build_messages('q', template)


@pytest.mark.parametrize('name', TEMPLATES)
def test_a_template_asks_in_the_wanted_units(name):
    pixels, relative = (build_messages('a cup', name, units)[0]['content'][1]['text']
                        for units in ('pixels', 'relative_1000'))
    assert 'in pixels of this image' in pixels and '1000' not in pixels
    assert 'in coordinates from 0 to 1000' in relative and 'pixels' not in relative
    # The example is a possible answer in either.
    example = relative[relative.rindex('<think>'):]
    answer = (parse_question_answer(example) if name == 'question_answering' else
              parse_response(example, several_objects=name == 'several_objects'))
    assert all(0 <= value <= 1000 for item in answer.objects
               for value in (*item.box, *sum(item.points or (), ())))


def test_a_custom_template_may_state_the_units():
    (turn, ) = build_messages('a cup', 'find {question} {coordinates}', 'relative_1000')
    assert turn['content'][1]['text'].startswith('find a cup in coordinates from 0 to 1000')


@pytest.mark.parametrize('name', TEMPLATES)
def test_the_example_from_0_to_1_has_such_numbers(name):
    text = build_messages('a cup', name, 'relative_1')[0]['content'][1]['text']
    assert 'in coordinates normalized to [0,1]' in text and 'pixels' not in text
    answer = parse_response(text[text.rindex('<think>'):],
                            several_objects=name == 'several_objects')
    assert isinstance(answer, ReasoningOutput)
    assert answer.objects[0].box == (0.01, 0.1, 0.2, 0.21)
