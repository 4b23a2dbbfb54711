# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Long lines of Markdown are broken where a reader does not notice."""
import pytest

from mmdpad.utils.markdown import wrap_markdown


@pytest.mark.parametrize('text, wrapped', [
    ('short\n\n', 'short\n\n'),
    ('one two three four', 'one two\nthree four'),
    ('- one two three four', '- one two\n  three four'),
    ('the mean of S1 - S2', 'the mean of\nS1 - S2'),
    ('a word such as - no', 'a word such\nas - no'),
    ('a version of no 2. or', 'a version of\nno 2. or'),
    ('a re-run of long-winded', 'a re-run of\nlong-winded'),
    ('a_word_of_many_letters b', 'a_word_of_many_letters\nb'),
    ('| a | table | of four |', '| a | table | of four |'),
    ('    python some/script.py', '    python some/script.py'),
    ('```\na line of code\n```\na line of prose', '```\na line of code\n```\na line of\nprose'),
])
def test_what_is_broken(text, wrapped):
    assert wrap_markdown(text, 12) == wrapped
