# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest

from mmdpad.prompts import noun_phrase


@pytest.mark.parametrize('caption, phrase', [
    ('a big red circle', 'big red circle'),
    ('The person on the left, holding a racket', 'person'),
    ('A man wearing a blue shirt', 'man'),
    ('the white and black dog lying on grass', 'white and black dog'),
    ('a bowl of soup.', 'bowl of soup'),
    ('There are two cups next to the plate', 'two cups'),
    ('The image shows the dog\'s left-hand toy', 'dog\'s left-hand toy'),
    ('umbrella', 'umbrella'), ('One of the two dogs on the left', 'two dogs'),
    ('the object that keeps the rain off', 'object'),
    # Where the rules leave nothing, all of it.
    (' on the left ', 'on the left'), ('...', '...'), ('', ''), ('the', 'the'),
])
def test_phrases(caption, phrase):
    assert noun_phrase(caption) == phrase
