# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest

from mmdpad.structures import read_turns, write_turns


@pytest.mark.parametrize('texts', [[], [''], ['a', '["b"]', '苹果 "\n\\ \u2028']])
def test_turns_are_read_as_they_were_written(texts):
    assert read_turns(write_turns(texts)) == texts


@pytest.mark.parametrize('text', ['', 'a', '{"a": 1}', '["a", 1]', '[["a"]]', 'null', '"a"', '["a"',
                                  '[' * 100000])
def test_other_texts_are_no_turns(text):
    assert read_turns(text) is None
