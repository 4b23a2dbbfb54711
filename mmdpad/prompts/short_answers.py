# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Short answers in words, as annotators and models spell them: how they are compared and counted.

The rules are those of VQA's published evaluation (arXiv 1505.00468; VQAv2, OK-VQA and TextVQA use
them).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r'\d,\d')
# The published pattern is meant to keep a period after a digit, but only looks at what follows.
_PERIOD = re.compile(r'\.(?!\d)')
_ARTICLES = ('a', 'an', 'the')
_NUMBERS = {word: str(number) for number, word in enumerate(
    'zero one two three four five six seven eight nine ten'.split())} | {'none': '0'}
# Words that may be spelt with any one of their apostrophes missing.
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
    mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll
    you're you've""".split()
_CONTRACTIONS = {word[:place] + word[place + 1:]: word for word in _CONTRACTED
                 for place, letter in enumerate(word) if letter == "'"}
_CONTRACTIONS["somebody'd"] = 'somebodyd'  # the other way round, as published
_LETTER = re.compile(r'\(?([a-z])(?:[).:]+|$)\s*', re.IGNORECASE)
# A hyphen behind a word (T-34) is no sign.
_NUMBER = re.compile(r'(?:(?<!\w)[-+])?(?:\d[\d,]*(?:\.\d+)?|\.\d+)')
_WORD = re.compile('[a-z]+')
_LONGEST_NUMBER = 40

MAX_CHOICES = len(ascii_uppercase)
"""A question has at most as many choices as there are letters."""
CHOICES_TEMPLATE = '{question} Choose one of these: {choices}'
"""How the choices of a question are written behind it, see :func:`with_choices`."""


def normalize_answer(text: str) -> str:
    """The form in which answers are compared.

    Lower case; without articles and, unless a digit follows, periods; number words up to ten (and
    'none') as digits; apostrophes of contractions restored. Any other punctuation mark vanishes if
    it has a space beside it anywhere in the text, or if a comma is inside a number; otherwise it
    becomes a space.

    >>> normalize_answer('The two-door car, dont stop.'), normalize_answer('1,000')
    ("2 door car don't stop", '1000')
    """
    text = _stripped(text)
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    cleaned = text
    for mark in _MARKS:
        vanishes = in_number or f'{mark} ' in text or f' {mark}' in text
        cleaned = cleaned.replace(mark, '' if vanishes else ' ')
    words = (_NUMBERS.get(word, word) for word in _PERIOD.sub('', cleaned).lower().split())
    return ' '.join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    """VQA's soft accuracy: how many annotators gave this answer, with three as enough.

    min(1, matches / 3) among all annotators but one, averaged over the one that is left out. As
    published, only surrounding whitespace is normalized if all annotators agree to the letter; case
    never counts here (there it does in that case). With fewer than four answers, which cannot give
    1 that way, any match is 1.

    Args:
        answer: The answer to score.
        answers: The N annotators' answers, at least one.

    Returns:
        A value in [0, 1].
    """
    answer, given = _stripped(answer), [_stripped(item) for item in answers]
    if len(given) < 4:
        return float(is_match(answer, given))
    if len(set(given)) > 1:
        answer, given = normalize_answer(answer), [normalize_answer(item) for item in given]
    matches = sum(item.lower() == answer.lower() for item in given)
    others = len(given) - matches
    return (matches * min(1.0, (matches - 1) / 3) + others * min(1.0, matches / 3)) / len(given)


def is_match(answer: str, answers: Sequence[str]) -> bool:
    """Whether an answer is one of those given, after :func:`normalize_answer`. If nothing is left
    of it then (an article, a punctuation mark), it is compared as it is, without case."""
    return comparable(answer) in map(comparable, answers)


def read_number(text: str) -> float | None:
    """The only number in a text, in digits or as a word up to ten; None if there is none, or more
    than one.

    >>> read_number('about 1,200 m'), read_number('Two dogs'), read_number('3 of 4')
    (1200.0, 2.0, None)
    """
    found = _NUMBER.findall(text) or [_NUMBERS[word] for word in _WORD.findall(text.lower())
                                      if word in _NUMBERS]
    if len(found) != 1 or len(found[0]) > _LONGEST_NUMBER:
        return None
    return float(found[0].replace(',', ''))


def with_choices(question: str, choices: Sequence[str]) -> str:
    """A question with its choices (:data:`CHOICES_TEMPLATE`).

    >>> with_choices('What is it?', ['a cup', 'a jug'])
    'What is it? Choose one of these: (A) a cup; (B) a jug'
    """
    listed = '; '.join(letter_and_text(number, choices) for number in range(len(choices)))
    return CHOICES_TEMPLATE.format(question=question, choices=listed)


def letter_and_text(number: int, choices: Sequence[str]) -> str:
    """A choice by both, which no other choice can be mistaken for.

    >>> letter_and_text(1, ['b', 'a'])
    '(B) a'
    """
    return f'({ascii_uppercase[number]}) {choices[number].strip()}'


def read_choice(answer: str, choices: Sequence[str]) -> int | None:
    """Which choice an answer names: by its letter, by its text, or by both if they agree.

    An answer that is only a letter is that letter, even if another choice has it as its text, as
    for VLMEvalKit and lmms-eval.

    >>> [read_choice(text, ['red', 'blue']) for text in ('B', '(a) red', 'Blue.', '(a) blue', 'x')]
    [1, 0, 1, None, None]
    """
    answer = _stripped(answer)
    named = _LETTER.match(answer)
    number = ascii_uppercase.index(named[1].upper()) if named else len(choices)
    rest = answer[named.end():] if named else answer
    if number < len(choices) and not rest:
        return number
    for place, choice in enumerate(choices):
        if answer.casefold() == _stripped(choice).casefold():
            return place
    if number < len(choices):
        return number if is_match(rest, [choices[number]]) else None
    found = [number for number, choice in enumerate(choices) if is_match(answer, [choice])]
    return found[0] if len(found) == 1 else None


def comparable(text: str) -> str:
    """:func:`normalize_answer`, or the text as it is, without case, if nothing is left of it."""
    return normalize_answer(text) or _stripped(text).lower()


def _stripped(text: str) -> str:
    return text.replace('\n', ' ').replace('\t', ' ').strip()
