# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import numpy as np

from mmdpad.visualization.text_panel import draw_text_panel, load_font, printable, shorten, wrap


def test_wrap_keeps_every_word_and_the_width():
    font = load_font(14)
    text = 'several words of a sentence\nand ' + 'unbreakable' * 10
    lines = wrap(text, font, 120)
    assert all(font.getlength(line) <= 120 for line in lines)
    assert ''.join(lines).replace(' ', '') == text.replace(' ', '').replace('\n', '')
    assert any(line.startswith('and') for line in lines), 'a line break starts a line'


def test_a_width_of_less_than_a_letter_still_ends():
    assert wrap('abc', load_font(14), 1) == ['a', 'b', 'c']


def test_shorten_and_printable():
    assert shorten('abcdef', 6) == 'abcdef'
    assert shorten('abcdefg', 4) == 'abcd… (3 more characters)'
    assert printable('a\tb\r\nc\x00\ud800é') == 'a b\nc\ufffd\ufffdé'


def test_lines_without_end_are_cut():
    heights = [draw_text_panel([('A', text)], [], 300, 14).shape[0]
               for text in ('a\n' * 40, 'a\n' * 100, '\n' * 100_000)]
    assert heights[0] < heights[1] == heights[2] == 14 + 19 + 81 * 19 + 9 + 7


def test_empty_sections_take_no_room():
    legend = [('box', (255, 0, 0))]
    alone = draw_text_panel([('A', 'text')], legend, 300, 14)
    more = draw_text_panel([('A', 'text'), ('B', '')], legend, 300, 14)
    assert alone.shape == more.shape and alone.shape[1] == 300
    higher = draw_text_panel([('A', 'text'), ('B', 'text')], legend, 300, 14)
    assert higher.shape[0] > alone.shape[0]
    assert (alone == np.array([255, 0, 0])).all(axis=2).any()
