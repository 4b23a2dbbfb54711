# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest

from mmdpad.prompts import build_messages
from mmdpad.prompts.agent import (
    PHRASE_TEMPLATE,
    VERDICT_TEMPLATE,
    parse_phrase,
    parse_verdict,
    retry_template,
)


def text_of(template):
    return build_messages('what rolls?', template)[0]['content'][1]['text']


@pytest.mark.parametrize('text, phrase', [
    ('it rolls. <phrase> red \n circle</phrase>', 'red circle'),
    ('<phrase>one</phrase> no, <phrase>two</phrase>', 'two'),
    ('red circle', ''), ('<phrase></phrase>', ''), ('<phrase>red', ''), ('', ''),
    ('<phrase>\ud800</phrase>', '\N{REPLACEMENT CHARACTER}'),
    (f'<phrase>{"x" * 99} dog</phrase>', 'x' * 99)])
def test_phrases(text, phrase):
    assert parse_phrase(text) == phrase


@pytest.mark.parametrize('text, verdict', [
    ('so <verdict>accept</verdict>', True), ('<verdict> Reject\n</verdict>', False),
    ('<verdict>accept</verdict><verdict>reject</verdict>', False),
    ('<verdict>accept or reject</verdict>', None), ('accept', None), ('', None)])
def test_verdicts(text, verdict):
    assert parse_verdict(text) is verdict


def test_the_forms_in_the_prompts_are_read():
    assert parse_phrase(text_of(PHRASE_TEMPLATE)) == 'the phrase'
    assert parse_verdict(text_of(VERDICT_TEMPLATE)) is True


def test_another_attempt_names_what_was_tried():
    text = text_of(retry_template(['a {thing}', 'ball']))
    assert '"a {thing}"; "ball"' in text and '"what rolls?"' in text
    assert parse_phrase(text) == 'the phrase'


@pytest.mark.parametrize('reasoning, ends', [
    ('<think>\n', False), ('<think>', False), ('', True), ('<think>\nso</think>\n', True),
    ('<think>\n<think>a</think>\n', True), ('\nno opened block.</think>', True)])
def test_what_is_still_reasoning_is_no_answer(reasoning, ends):
    """Such as a response of a thinking model that is cut off in its block."""
    phrase = f'{reasoning}Maybe <phrase>red cup</phrase>, or'
    assert parse_phrase(phrase) == ('red cup' if ends else '')
    verdict = f'{reasoning}<verdict>accept</verdict> would be hasty'
    assert parse_verdict(verdict) == (True if ends else None)


def test_what_the_reasoning_weighs_does_not_count():
    text = '<think>not <phrase>a</phrase>, <verdict>accept</verdict></think>'
    assert parse_phrase(text) == '' and parse_verdict(text) is None
    assert parse_verdict(f'{text}<verdict>reject</verdict>') is False
