# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Where the entries of an answer are in its text: always those that the parser reads."""
import json
from itertools import islice

import pytest
from hostile_texts import hostile_texts

from mmdpad.prompts import format_detections, locate_detections, parse_detections
from mmdpad.prompts.parser import load_json
from mmdpad.structures import ReasoningOutput

CUP = '{"bbox_2d": [1, 2, 30, 40], "label": "cup"}'


def response(answer, before='<think>so [1, 2] it is</think>', after='<caption>[3]</caption>'):
    return f'{before}\n<answer> {answer}\n</answer>{after}'


def written(text):
    """What the places hold, and that it is what the parser reads."""
    found = [{name: text[start:end] for name, (start, end) in entry.items()}
             for entry in locate_detections(text)]
    parsed = parse_detections(text, 1000)
    if isinstance(parsed, ReasoningOutput):
        assert [(item.box, item.label) for item in parsed.objects] == [
            (tuple(map(float, json.loads(entry['box']))), load_json(entry['label']).strip())
            for entry in found]
        for entry in found:
            assert isinstance(load_json(entry['object']), dict)
            assert entry['box'] in entry['object'] and entry['label'] in entry['object']
    return found


def test_values_have_their_brackets_and_quotes():
    assert written(response(f'[{CUP}]')) == [
        dict(object=CUP, box='[1, 2, 30, 40]', label='"cup"')]


@pytest.mark.parametrize('answer, labels', [
    ('[]', []), ('cup', []), ('{"label": "cup"}', []), (f'[{CUP}', []), (f'{CUP}]', []),
    (f'[{CUP}] or [{CUP}]', []), (f'[[{CUP}]]', [None]),
    (f'[1, "[{{", {CUP}, null]', [None, None, '"cup"', None]),
    (f'```json\n[{CUP} ,\n\t{CUP}\r\n]\n``` for [each', ['"cup"', '"cup"']),
    (f'```json\n[{CUP}]\n``` for [each]', []),
    (CUP.replace('"cup"', '"cup", "label": "a \\" , ] cup"').join('[]'), ['"a \\" , ] cup"']),
    (CUP.replace('"label"', '"lab\\u0065l"').join('[]'), ['"cup"']),
    (CUP.replace('"label"', '"x": {"label": "no", "y": [[{}]]}, "label"').join('[]'), ['"cup"']),
    (CUP.replace('}', ', "description": "}], <answer>"}').join('[]'), ['"cup"']),
    (CUP.replace('"cup"', '"杯 \U0001F375é"').join('[]'), ['"杯 \U0001F375é"']),
    (CUP.replace('":', '" \n :').join('[]'), ['"cup"']),
    (CUP.replace('40', '4e1').replace(', ', ' ,').join('[]'), ['"cup"']),
    ('[{}, {"label": NaN}]', [None, 'NaN'])])
def test_each_entry_is_found_where_the_parser_reads_it(answer, labels):
    assert [entry.get('label') for entry in written(response(answer))] == labels


@pytest.mark.parametrize('text', [
    '', CUP, f'[{CUP}]', f'<answer>[{CUP}]', f'</answer><answer>[{CUP}]</answer>',
    f'<answer></answer><answer>[{CUP}]</answer>', f'<answer>[{CUP}]</answer>' * 2,
    f'<think><answer>[{CUP}]</think></answer>', f'<answer> <answer>[{CUP}]</answer>'])
def test_the_answer_is_the_one_that_the_parser_reads(text):
    parsed = parse_detections(text)
    assert len(written(text)) == len(parsed.objects)


def test_texts_that_no_model_should_write():
    """Good ones of detection changed by chance: whatever is usable is found as it is read."""
    objects = [((1, 2, 30, 40), 'cup', 'the [blue] one'), ((5, 6, 70, 80), '狗 \U0001F415', None)]
    usable = 0
    for number, text in enumerate(islice(hostile_texts(3), 1500)):
        for given in (text, response(text), format_detections(text, objects)):
            usable += bool(written(given))
            cut = given[:number % (len(given) + 1)]
            written(cut + given)
    assert usable > 300


def test_a_long_answer_takes_linear_time():
    """Of a quadratic search this would be 10^10 steps."""
    text = response('[' + ', '.join([CUP.replace('"cup"', '"' + '[{' * 20 + '"')] * 1000) + ']')
    assert len(written(text)) == 1000 and len(text) < 100_000
    assert written(response('[' * 100_000)) == [] == written(response('[' * 9999 + ']' * 9999))
    assert written(response('{"a":[' * 20_000)) == []
