# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Finds the characters of a text that each of its tokens stands for."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mmdpad.prompts import Place

_BYTES = {character: byte for byte, character in bytes_to_unicode().items()}
_PROBE = 'a é 狗 \U0001F415\n'


def place_tokens(tokenizer: PreTrainedTokenizerBase,
                 ids: Sequence[int]) -> tuple[str, list[Place]]:
    """Decode tokens of a byte-level BPE, and find the characters of each, in time linear in their
    number.

    A character may take the bytes of several tokens, and a token may have bytes of several
    characters: its place has all characters that it has a byte of.

    Args:
        tokenizer: The tokenizer.
        ids: Any tokens, none of which is to be left out.

    Returns:
        The text, as ``tokenizer.decode`` gives it, and the place of each token, in order; empty for
        one without bytes.
    """
    decoder = codecs.getincrementaldecoder('utf-8')('replace')
    parts: list[str] = []
    known = 0  # characters
    places = []
    for token in tokenizer.convert_ids_to_tokens(list(ids)):
        first = last = None
        for byte in _bytes_of(token):
            part = decoder.decode(bytes([byte]))
            parts.append(part)
            known += len(part)
            # The byte waits for more, or has just completed a character or proved to be none.
            last = known - (not decoder.getstate()[0])
            first = last if first is None else first
        places.append((known, known) if first is None or last is None else (first, last + 1))
    return ''.join([*parts, decoder.decode(b'', final=True)]), places


def check_places(tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Check that :func:`place_tokens` can handle a tokenizer.

    Args:
        tokenizer: The tokenizer.
        source: Where it comes from, for the message.

    Raises:
        ValueError: It is not a byte-level BPE.
    """
    ids = tokenizer(_PROBE, add_special_tokens=False)['input_ids']
    if place_tokens(tokenizer, ids)[0] != _PROBE:
        raise ValueError(f'The tokenizer of {source!r} should be a byte-level BPE, whose tokens '
                         'can be found in a text, but is another; use DiscriminationScorer, which '
                         'needs no tokens')


def _bytes_of(token: str | None) -> bytes:
    """The bytes of a token; none of a number without a token. An added token that has a character
    outside the alphabet is its own text."""
    if token is None:
        return b''
    try:
        return bytes(_BYTES[character] for character in token)
    except KeyError:
        return token.encode()
