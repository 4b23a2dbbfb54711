# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from bisect import bisect

import pytest

from mmdpad.prompts import (
    FAILURE_REASONS,
    MAX_OBJECTS,
    follows_template,
    format_objects_response,
    format_response,
    parse_response,
)
from mmdpad.prompts.parser import find_reference_object
from mmdpad.prompts.template import EXAMPLES
from mmdpad.structures import AnsweredObject, ParseFailure, ReasoningOutput

ANSWER = '{"bbox": [10, 20, 30, 40], "points_1": [12, 22], "points_2": [28, 38]}'


def wrap(answer: str) -> str:
    return f'<think>why</think>\n<answer>{answer}</answer>\n<caption>a cup</caption>'


def test_reads_back_what_the_template_writes():
    text = format_response('because', (10.4, 20, 30, 40), ((12, 22), (28, 38)), 'a red cup')
    assert follows_template(text)
    assert parse_response(text) == ReasoningOutput(
        think='because', caption='a red cup',
        objects=(AnsweredObject((10., 20., 30., 40.), ((12., 22.), (28., 38.))), ))


def test_without_a_caption_the_text_ends_with_the_answer():
    text = f'<think>why</think>\n<answer>{ANSWER}</answer>'
    assert follows_template(text, caption=False) and not follows_template(text)
    assert not follows_template(wrap(ANSWER), caption=False)
    for wrong in ('', '<think></answer>', text + ' ', text.replace('<answer>', 'x<answer>')):
        assert not follows_template(wrong, caption=False)


def test_reads_the_example_of_the_default_template():
    assert follows_template(EXAMPLES['default'])
    assert isinstance(parse_response(EXAMPLES['default']), ReasoningOutput)


@pytest.mark.parametrize('answer, reason', [
    ('', 'no_json'),
    ('the cup', 'no_json'),
    ("{'bbox': [10, 20, 30, 40]}", 'no_json'),
    (ANSWER.replace('}', ',}'), 'no_json'),
    ('[' * 100_000, 'no_json'),
    ('{"a":' * 100_000 + '1' + '}' * 100_000, 'no_json'),
    ('{"bbox": ' + '9' * 5000 + '}', 'no_json'),
    ('{"bbox": [10, 20, 30, 40], "points_1": [12, 22]}', 'missing_key'),
    ('{}', 'missing_key'),
    (ANSWER.replace('10', '"10"'), 'bad_value'),
    (ANSWER.replace('10', 'true'), 'bad_value'),
    (ANSWER.replace('10', 'null'), 'bad_value'),
    (ANSWER.replace('10', 'NaN'), 'bad_value'),
    (ANSWER.replace('10', '1e999'), 'bad_value'),
    (ANSWER.replace('10', '1' + '0' * 400), 'bad_value'),
    (ANSWER.replace('[10, 20, 30, 40]', '[10, 20, 30]'), 'bad_value'),
    (ANSWER.replace('[10, 20, 30, 40]', '{"x1": 1}'), 'bad_value'),
    (ANSWER.replace('[12, 22]', '[12, 22, 1]'), 'bad_value'),
    (ANSWER.replace('10', '30'), 'empty_box'),
    (ANSWER.replace('20', '41'), 'empty_box'),
])
def test_each_unusable_answer_has_its_reason(answer, reason):
    result = parse_response(wrap(answer))
    assert isinstance(result, ParseFailure)
    assert result.reason == reason and reason in FAILURE_REASONS
    assert (result.think, result.caption) == ('why', 'a cup')


def test_a_failure_keeps_what_could_be_read():
    result = parse_response(wrap('{"bbox": [10, 20, 30, 40]}'))
    assert result.box == (10., 20., 30., 40.) and result.points is None


def test_missing_tags_are_no_failure_but_do_not_follow_the_template():
    text = f'<answer>{ANSWER}</answer>'
    result = parse_response(text)
    assert isinstance(result, ReasoningOutput)
    assert result.think is None and result.caption is None
    assert not follows_template(text)


def test_without_an_answer_block_only_the_reference_finds_json():
    text = f'<think>t</think> {ANSWER} <caption>c</caption>'
    assert parse_response(text).reason == 'no_answer'
    assert isinstance(parse_response(text, reference_compatible=True), ReasoningOutput)


def test_json_in_the_reasoning_is_not_the_answer():
    text = f'<think>maybe <answer>{ANSWER.replace("10", "1")}</answer></think>' + wrap(ANSWER)
    assert parse_response(text).box[0] == 10.


def test_code_fences_are_allowed():
    assert isinstance(parse_response(wrap(f'```json\n{ANSWER}\n```')), ReasoningOutput)


@pytest.mark.parametrize('text, follows', [
    (wrap('x'), True),
    ('<think></think><answer></answer><caption></caption>', True),
    (' ' + wrap('x'), False),
    (wrap('x') + '.', False),
    (wrap('x').replace('</answer>\n', '</answer>!\n'), False),
    ('<think>a</think><caption>c</caption><answer>b</answer>', False),
    ('<think>a</think><answer>b</answer><caption></caption', False),
    ('<think></think><answer></answer><caption>x</caption><caption>y</caption>', True),
    ('<think></think><answer></answer></caption>', False),
    ('', False),
])
def test_follows_template(text, follows):
    assert follows_template(text) is follows


@pytest.mark.parametrize('unit', ['<think>', '</think><answer>', '{', '{}', '<answer>{',
                                  '</answer> ', '</caption>', '</think> \n'])
def test_a_megabyte_of_hostile_text_is_read(unit):
    # Anything worse than linear time would not come back from this.
    text = '<think>' + unit * (1_000_000 // len(unit)) + '</caption>'
    assert not follows_template(text)
    assert isinstance(parse_response(text, reference_compatible=True), ParseFailure)


ENTRY = '{"bbox_2d": [10, 20, 30, 40], "point_2d": [12, 22]}'
FOUND = AnsweredObject((10., 20., 30., 40.), ((12., 22.), ))


@pytest.mark.parametrize('count', [0, 1, 2])
def test_a_list_of_objects_is_read_back(count):
    text = format_objects_response('so', [((10, 20, 30, 40), ((12, 22), ))] * count, 'cups')
    assert follows_template(text)
    parsed = parse_response(text, several_objects=True)
    assert parsed == ReasoningOutput('so', 'cups', (FOUND, ) * count)
    assert parsed.box == (FOUND.box if count else None)


def test_reads_the_example_of_the_template_for_several():
    assert len(parse_response(EXAMPLES['several_objects'], several_objects=True).objects) == 2
    assert parse_response(EXAMPLES['several_objects']).reason == 'no_json'
    assert parse_response(EXAMPLES['default'], several_objects=True).reason == 'no_json'


@pytest.mark.parametrize('answer, reason, boxes', [
    ('none', 'no_json', []),
    (f'[{ENTRY}, ]', 'no_json', []),
    (f'[{ENTRY}, 7]', 'missing_key', [FOUND.box, None]),
    (f'[{ENTRY.replace("12", "true")}]', 'bad_value', [FOUND.box]),
    (f'[{ENTRY.replace("10", "30")}, {ENTRY}]', 'empty_box', [(30., 20., 30., 40.), FOUND.box]),
    ('[' * 100_000, 'no_json', []),
])
def test_one_unusable_object_makes_the_answer_unusable_and_keeps_what_was_read(
        answer, reason, boxes):
    result = parse_response(wrap(answer), several_objects=True)
    assert isinstance(result, ParseFailure) and result.reason == reason
    assert [item.box for item in result.objects] == boxes


def test_a_list_of_too_many_objects_is_not_read():
    def parse(count, **limit):
        text = wrap(f'[{", ".join([ENTRY] * count)}]')
        return parse_response(text, several_objects=True, **limit)
    assert len(parse(MAX_OBJECTS).objects) == MAX_OBJECTS
    assert parse(MAX_OBJECTS + 1) == ParseFailure(
        'too_many', f'{MAX_OBJECTS + 1} objects, more than {MAX_OBJECTS}', 'why', 'a cup')
    assert parse(3, max_objects=2).reason == 'too_many'
    assert len(parse(2, max_objects=2).objects) == 2


def test_json_without_end_is_not_read():
    def pad(length):
        return ANSWER[:-1] + ' ' * (length - len(ANSWER)) + '}'
    for read in (parse_response, lambda text: parse_response(text, reference_compatible=True)):
        assert isinstance(read(wrap(pad(100_000))), ReasoningOutput)
        assert read(wrap(pad(100_001))).reason == 'no_json'
        assert isinstance(read(wrap(ANSWER + ' ' * 1_000_000)), ReasoningOutput)


@pytest.mark.parametrize('several', [False, True])
def test_as_deep_as_json_can_be_read_it_can_be_reported(several):
    def reason(depth):
        answer = '{"bbox": ' + '[' * depth + ']' * depth + ', "points_1": 1, "points_2": 2}'
        if several:
            answer = f'[{answer.replace("bbox", "bbox_2d").replace("points_1", "point_2d")}]'
        return parse_response(wrap(answer), several_objects=several).reason
    deepest = bisect(range(40_000), False, key=lambda depth: reason(depth) == 'no_json')
    assert {reason(depth) for depth in range(deepest - 9, deepest)} == {'bad_value'}


@pytest.mark.parametrize('text, found', [
    ('{} {}{"a": 1} {"a": 2}', {'a': 1}), ('{{"a": 1}', None), ('{"a": {"b": 1}}', None),
    ('{}{}', None), ('{', None), ('{"a": 1', None), ('} {"a":\n1}', {'a': 1}), ('{\n}', {}),
])
def test_the_reference_takes_the_first_braces_with_something_between(text, found):
    assert find_reference_object(text) == found
