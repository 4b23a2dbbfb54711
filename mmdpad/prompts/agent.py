# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Prompts that ask for a phrase to segment and for a verdict on a mask, and how their responses are
read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .parser import after_reasoning
from .template import well_formed

_NAME = (
    'Someone asks about this image: "{question}". A segmentation model finds all objects that a '
    'short noun phrase names, by their kind and looks; it knows no positions, relations or '
    'purposes. ')
_FORM = ('First reason briefly. Then write the phrase, of at most five words, in exactly this '
         'form:\n<phrase>the phrase</phrase>')

PHRASE_TEMPLATE = (
    _NAME + 'Find out which object is asked for, and name its kind for that model. ' + _FORM)
"""Prompt template that asks for the phrase."""

VERDICT_TEMPLATE = (
    'Someone asks about this image: "{question}". A bright outline marks one region of the image. '
    'Decide whether that region is what is asked for, or one of the objects asked for, and nothing '
    'else. First reason briefly. Then write your verdict, accept or reject, in exactly this '
    'form:\n<verdict>accept</verdict>')
"""Prompt template that asks for the verdict on an outlined mask."""

MAX_PHRASE = 100
"""Characters of a phrase that are used; SAM 3 reads 30 tokens."""

_PHRASE = re.compile(r'<phrase>([^<]*)</phrase>')
_VERDICT = re.compile(r'<verdict>([^<]*)</verdict>')


def retry_template(tried: Sequence[str]) -> str:
    """:data:`PHRASE_TEMPLATE` for another attempt, which names the phrases that were tried."""
    phrases = '; '.join(f'"{phrase}"' for phrase in tried).replace('{', '{{').replace('}', '}}')
    return (_NAME + f'These phrases found nothing that fits: {phrases}. Find out which object is '
            f'asked for, and name its kind by another phrase, such as a more general one. ' + _FORM)


def parse_phrase(text: str) -> str:
    """The last phrase in a response after its reasoning, with single spaces and cut to
    :data:`MAX_PHRASE` characters; empty if there is none."""
    found = _PHRASE.findall(after_reasoning(text))
    return ' '.join(well_formed(found[-1]).split())[:MAX_PHRASE].strip() if found else ''


def parse_verdict(text: str) -> bool | None:
    """Whether the last verdict in a response after its reasoning accepts; None if there is none, or
    it is neither."""
    found = _VERDICT.findall(after_reasoning(text))
    verdict = found[-1].strip().lower() if found else ''
    return dict(accept=True, reject=False).get(verdict)
