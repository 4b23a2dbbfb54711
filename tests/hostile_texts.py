# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Texts that a model should not write, but may: good ones changed by chance, and long ones."""
import random
import re
from collections.abc import Iterator

from mmdpad.prompts import format_objects_response, format_response
from mmdpad.prompts.template import EXAMPLES

_BOX, _POINTS = (10, 20, 430, 640), ((15, 30), (200, 300))
GOOD = [
    EXAMPLES['default'],
    EXAMPLES['several_objects'],
    format_response('The dog is left of the tree. ' * 8, _BOX, _POINTS, 'a brown dog'),
    format_response('狗在树的左边。', _BOX, _POINTS, 'чёрный пёс \U0001F415'),
    format_objects_response('none is meant', [], 'nothing'),
    format_objects_response('many', [((i, i, i + 9, i + 9), ((i, i), )) for i in range(30)], 'x'),
    '<think>in a fence</think>\n<answer>```json\n{"bbox": [1.5, 2e1, 30, 40], '
    '"points_1": [12, 22], "points_2": [28, 38]}\n```</answer>',
    'The answer is {"bbox": [1, 2, 30, 40], "points_1": ["12", 22], "points_2": [true, 38]}.',
]
NUMBERS = ['0', '-0', '1', '-1', '7.5', '839', '840', '1000', '1e9', '999999999', '-1e9', '1e400',
           '-1e400', '1e-400', '5e-324', '1e308', 'NaN', 'Infinity', '-Infinity', '9' * 400,
           '-' + '9' * 400, '9' * 4301, '16777217', '0x10', '01', '1_0', '٣', 'true', 'null',
           '"12"', '[]', '{}']
TAGS = [f'<{slash}{name}>' for name in ('think', 'answer', 'caption') for slash in ('', '/')]
PIECES = [*TAGS, *NUMBERS, *'{}[]",:\\<> \n\t\r\0', '```json\n', '"bbox"', '"bbox_2d"',
          '"point_2d"', '"points_1"', '"a":', '</think>\n<answer>', '</answer> <caption>',
          '\ud800', '\udfff', '\ud83d\ude00', '\\ud800', 'e\u0301\u0300\u0321', '\u202e', '\u200f',
          '\u2028', '\x85', '\x1b[2J', '\ufeff', '\ufffe', '\U0010ffff', 'ﷺ', '<script>', '&lt;',
          '${x}', '{{x}}', '%s', '\x7f', 'so it is ']
_NUMBER, _TAG = re.compile(r'-?\d+(?:\.\d+)?'), re.compile(r'</?\w+>')
_LONGEST = 10_000


def hostile_texts(seed: int) -> Iterator[str]:
    """Texts without end, up to 10,000 characters each and mostly some hundred: good ones, changed
    up to six times, and some of these changed again."""
    rng = random.Random(seed)
    pool = GOOD * 50
    while True:
        text = rng.choice(GOOD if rng.random() < 0.7 else pool)
        for change in rng.choices(_CHANGES, k=rng.choice((1, 1, 1, 2, 3, 6))):
            text = change(rng, text)[:_LONGEST]
        yield text
        if len(text) < 1000:
            pool[rng.randrange(len(pool))] = text


def _ends(rng: random.Random, text: str) -> list[int]:
    return sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))


def _insert(rng, text):
    at = rng.randint(0, len(text))
    return text[:at] + rng.choice(PIECES) + text[at:]


def _delete(rng, text):
    start, end = _ends(rng, text)
    return text[:start] + text[min(end, start + rng.choice((1, 1, 9, 99))):]


def _repeat(rng, text):
    start, end = _ends(rng, text)
    end = min(end, start + rng.choice((1, 9, 99)))
    return text[:start] + text[start:end] * rng.choice((2, 2, 2, 3, 3, 20, 200)) + text[end:]


def _nest(rng, text):
    (start, end), depth = _ends(rng, text), rng.choice((1, 1, 2, 2, 20, 2000))
    opened, closed = rng.choice((('[', ']'), ('{"a":', '}'), ('<think>', '</think>'),
                                 ('<answer>', '</answer>'), ('[[', ']')))
    return text[:start] + opened * depth + text[start:end] + closed * depth + text[end:]


def _renumber(rng, text):
    share = rng.random()
    return _NUMBER.sub(lambda m: rng.choice(NUMBERS) if rng.random() < share else m[0], text)


def _retag(rng, text):
    return _TAG.sub(lambda m: rng.choice(TAGS) if rng.random() < 0.3 else m[0], text)


def _splice(rng, text):
    other = rng.choice(GOOD)
    return text[:rng.randint(0, len(text))] + other[rng.randint(0, len(other)):]


_CHANGES = [_insert, _insert, _delete, _delete, _repeat, _nest, _renumber, _renumber, _retag,
            _splice]


def long_texts(length: int) -> dict[str, str]:
    """A text of about so many bytes in UTF-8 for each kind that is costly to read, by its name."""
    def fill(unit: str) -> str:
        return unit * (length // len(unit.encode(errors='surrogatepass')))

    rng = random.Random(0)
    letters = 'abcdefghijklmnopqrstuvwxyz0123456789'
    entry = '{"bbox_2d": [10, 20, 30, 40], "point_2d": [12, 22]},'
    answers = {
        'open lists': fill('['), 'nested lists': '[' * (length // 2) + ']' * (length // 2),
        'nested objects': fill('{"a":') + '1' + '}' * (length // 5), 'open objects': fill('{'),
        'empty objects': f'[{fill("{},")}{{}}]', 'empty lists': f'[{fill("[],")}[]]',
        'ones': f'[{fill("1,")}1]', 'objects': f'[{fill(entry)[:-1]}]',
        'keys': '{' + ','.join(f'"{i}":{i}' for i in range(length // 14)) + '}',
        'digits': f'{{"bbox": [{fill("9")}, 2, 3, 4]}}',
        'fraction': f'{{"bbox": [0.{fill("0")}1, 2, 3, 4]}}',
        'integers': f'{{"bbox": [{fill("9" * 4300 + ",")}1]}}',
        'escapes': f'{{"bbox": "{fill(chr(92) + "ud800")}"}}', 'backslashes': fill('\\'),
        'pairs of braces': fill('{}'), 'blanks in an answer': fill(' '),
    }
    reasoning = {
        'one word': fill('x'), 'loop': fill('so it is '), 'one letter': fill('a '),
        'different words': ' '.join(map(str, range(length // 7))),
        'random words': ' '.join(''.join(rng.choices(letters, k=3)) for _ in range(length // 4)),
        'Chinese words': ''.join(f'{chr(0x4e00 + i % 20_000)} ' for i in range(length // 4)),
        'NUL': fill('\0'), 'half surrogates': fill('\ud800'), 'right to left': fill('\u202eא'),
        'combining': fill('e\u0301\u0300\u0321'), 'emoji': fill('\U0001F600'),
        'line breaks': fill('\n'), 'markup': fill('<b>&amp;'), 'line separators': fill('\u2028'),
    }
    bare = {**{f'only {tag}': fill(tag) for tag in TAGS},
            'tags in pairs': fill('</think><answer>'), 'answer and blanks': fill('</answer>  '),
            'tags and blanks': '</think>' + fill(' '), 'answers': fill('<answer>{}</answer>'),
            'good answers': fill(EXAMPLES['default']), 'braces': fill('{}'), 'opened': fill('{x')}
    return {
        **bare,
        **{name: f'<think>t</think>\n<answer>{answer}</answer>\n<caption>c</caption>'
           for name, answer in answers.items()},
        **{name: format_response(text, _BOX, _POINTS, text) for name, text in reasoning.items()}}
