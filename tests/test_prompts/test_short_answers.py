# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Comparing answers by VQA's published rules, on cases worked out by hand."""
import pytest

from mmdpad.prompts import (
    normalize_answer,
    read_choice,
    read_number,
    vqa_accuracy,
    with_choices,
)
from mmdpad.prompts.short_answers import is_match


@pytest.mark.parametrize('text, wanted', [
    ('The Dog', 'dog'), ('an apple and a pear', 'apple and pear'),
    ('two', '2'), ('None', '0'), ('eleven', 'eleven'), ('twoo', 'twoo'),
    ('dont', "don't"), ("couldn'tve", "couldn't've"), ("couldnt've", "couldn't've"),
    ('couldntve', 'couldntve'), ("somebody'd", 'somebodyd'), ('twas', "'twas"), ('im', 'im'),
    ('T-shirt', 't shirt'), ('t- shirt', 't shirt'), ('well -known', 'well known'),
    ('red, white', 'red white'), ('red,white', 'red white'), ('1,000', '1000'),
    # A comma in a number makes all marks vanish, also one that would have become a space.
    ('1,000 t-shirts', '1000 tshirts'), ('what?', 'what'), ('what? why?', 'what why'),
    ('u.s.', 'us'), ('3.5', '3.5'), ('.5', '.5'), ('5.', '5'), ('$5', '$5'), ('2:30', '2:30'),
    (' red\n blue\t', 'red blue'), ('', ''), ('the', '')])
def test_normalization(text, wanted):
    assert normalize_answer(text) == wanted


@pytest.mark.parametrize('matches, wanted', [
    # min(1, others / 3) without each annotator in turn: with 3 matches, 3 times 2/3 and 7 times 1.
    (0, 0), (1, 9 * (1 / 3) / 10), (2, (2 * (1 / 3) + 8 * (2 / 3)) / 10),
    (3, (3 * (2 / 3) + 7) / 10), (4, 1), (10, 1)])
def test_soft_accuracy_of_ten_annotators(matches, wanted):
    answers = ['two'] * matches + ['3', 'three', '4', 'x', 'y', 'z', 'u', 'v', 'w', 'q'][matches:]
    assert vqa_accuracy('2', answers) == pytest.approx(wanted if matches < 10 else 0)
    assert vqa_accuracy('Two', answers) == pytest.approx(wanted)


def test_nothing_is_normalized_where_all_annotators_agree_as_published():
    assert vqa_accuracy('2', ['two'] * 10) == 0 and vqa_accuracy(' two\n', ['two'] * 10) == 1
    assert vqa_accuracy('2', ['two'] * 9 + ['2']) == 1


def test_fewer_than_four_answers_need_one_match():
    assert vqa_accuracy('The dog', ['dog']) == 1
    assert [vqa_accuracy('a cat', ['dog', 'cat', 'cow']), vqa_accuracy('x', ['dog'])] == [1, 0]


@pytest.mark.parametrize('text, wanted', [
    ('42', 42), ('$1,234.50', 1234.5), ('-3', -3), ('two dogs', 2), ('none', 0), ('17%', 17),
    ('.5', .5), ('3 or 4', None), ('', None), ('many', None), ('two or three', None),
    ('9' * 400, None), ('two.', 2), ('4.', 4), ('T-34', 34), ('at -3', -3), ('x+2', 2)])
def test_the_only_number_in_a_text(text, wanted):
    assert read_number(text) == wanted


def test_what_normalization_leaves_empty_is_compared_as_it_is():
    assert [is_match(text, ['A']) for text in ('a', ' A ', 'the', '.', '?', '')] == [
        True, True, False, False, False, False]
    assert [vqa_accuracy(text, ['A']) for text in ('a', '!')] == [1, 0]
    assert [read_choice(text, ['x', 'the']) for text in ('?', 'the', 'an')] == [None, 1, None]


CHOICES = ['a cup.', 'The jug', 'D', 'two cups']


@pytest.mark.parametrize('text, wanted', [
    ('A', 0), ('(b)', 1), ('b.', 1), ('c)', 2), ('D', 3), ('d.', 3), ('(c) D', 2), ('E', None),
    ('cup', 0), ('the cup', 0), ('B: the jug', 1), ('(B) jug', 1), ('(B) cup', None),
    ('2 cups', 3), ('both', None), ('', None), ('Z.', None), ('A jug', 1)])
def test_a_choice_by_letter_or_text(text, wanted):
    assert read_choice(text, CHOICES) == wanted


def test_a_letter_is_no_text_of_another_choice():
    """As for VLMEvalKit (can_infer) and MMMU's script in lmms-eval, which look for letters first;
    a letter without a choice may be a text."""
    assert [read_choice(text, ['B', 'a', 'Q']) for text in ('A', 'b.', '(A) B', '(a) a', 'q')] == [
        0, 1, 0, None, 2]


def test_choices_are_listed_by_letter():
    assert with_choices('What is it?', [' x ', 'y']) == (
        'What is it? Choose one of these: (A) x; (B) y')
