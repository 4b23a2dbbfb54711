# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The noun phrase that an English caption starts with."""

from __future__ import annotations

import re

_ARTICLES = ('a', 'an', 'the', 'this', 'that', 'these', 'those', 'its', 'his', 'her', 'their',
             'one', 'of')
_OPENINGS = re.compile(
    r'^(?:(?:there|here|this|that|these|those|it)\s+(?:is|are|was|were)'
    r'|the\s+(?:image|picture|photo|box)\s+(?:shows?|contains?|holds?))\s+')
# Words that end a noun phrase: prepositions except 'of', conjunctions of clauses, pronouns that
# open a clause, verbs and participles that captions use.
_ENDS = frozenset('''
    about above across after against along amid among around as at before behind below beneath
    beside besides between beyond by during for from in inside into near next on onto opposite out
    outside over past through to toward towards under underneath up upon via with within without
    because but if so than though when where whereas which while who whom whose that
    am are be been being can could did do does had has have is may might must should was were will
    would
    attached carried carrying closest covered covering displayed drinking driving eating facing
    filled flying found growing hanging having held holding jumping leaning located looking lying
    made mounted nearest parked placed playing pointing positioned pulling pushing reading resting
    riding running seated seen serving shown sitting sleeping standing surrounded swimming talking
    tied used visible walking watching wearing
'''.split())


def noun_phrase(caption: str) -> str:
    """Cut a caption after its first noun phrase, without articles, for models that find a concept
    by a short phrase.

    The rules are a list of words (prepositions except 'of', pronouns, verbs) and punctuation marks
    that end a noun phrase in captions; nothing is parsed.

    >>> noun_phrase('There is a young man in a red cap, holding a racket.')
    'young man'
    >>> noun_phrase('A bowl of soup that stands on the table')
    'bowl of soup'

    Args:
        caption: Any text.

    Returns:
        The phrase in lowercase; the whole caption, stripped, if the rules leave nothing.
    """
    text = _OPENINGS.sub('', caption.strip().lower())
    words = re.split(r'[^\w\s\'’-]', text, maxsplit=1)[0].split()
    while words and words[0] in _ARTICLES:
        words.pop(0)
    end = next((i for i, word in enumerate(words) if word in _ENDS), len(words))
    return ' '.join(words[:end]) or caption.strip()
