# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
import pytest

from mmdpad.prompts import build_messages, format_zoom
from mmdpad.prompts.zoom import (
    BAD_CALLS,
    BadCall,
    ShowMask,
    Zoom,
    offers_calls,
    read_turn,
    reply_text,
)

BOX = (1.0, 2.0, 30.5, 40.0)


@pytest.mark.parametrize('text, found', [
    ('<think>small</think><zoom>[1, 2, 30.5, 40]</zoom>', Zoom(BOX)),
    ('<zoom> [1, 2,\n30.5, 40] </zoom> and more', Zoom(BOX)),
    # what reasoning weighs is no call, and an unfinished one leaves nothing to read
    ('<think><zoom>[1, 2, 3, 4]</zoom></think><zoom>[1, 2, 30.5, 40]</zoom>', Zoom(BOX)),
    ('<think><zoom>[1, 2, 30.5, 40]</zoom>', None),
    ('<zoom>[-5, 2, 3000, 40]</zoom>', Zoom((-5.0, 2.0, 3000.0, 40.0))),
    # the answer ends the conversation, complete or not
    ('<think>t</think><answer>{}</answer><zoom>[1, 2, 30.5, 40]</zoom>', None),
    ('<zoom>[1, 2, 30.5, 40]</zoom><answer>{"bbox', None),
    ('<think>t</think>', None), ('', None), ('zoom [1, 2, 3, 4]', None),
    ('<zoom>[1, 2, 3, 4]</zoom><zoom>[1, 2, 3, 4]</zoom>', BadCall('several_calls')),
    ('<zoom><zoom>[1, 2, 3, 4]</zoom>', BadCall('several_calls')),
    ('<zoom>[1, 2, 30.5, 40]', BadCall('bad_box')),
    ('<zoom>1, 2, 30.5, 40</zoom>', BadCall('bad_box')),
    ('<zoom>[1, 2, 3]</zoom>', BadCall('bad_box')), ('<zoom></zoom>', BadCall('bad_box')),
    ('<zoom>[1, 2, "3", 4]</zoom>', BadCall('bad_box')),
    ('<zoom>[1, 2, NaN, 4]</zoom>', BadCall('bad_box')),
    ('<zoom>[1, 2, Infinity, 4]</zoom>', BadCall('bad_box')),
    ('<zoom>[1, 2, true, 4]</zoom>', BadCall('bad_box')),
    (f'<zoom>{"[" * 50000}</zoom>', BadCall('bad_box')),
    ('<zoom>[3, 2, 3, 4]</zoom>', BadCall('empty_box')),
    ('<think>t</think><mask> {"bbox": [1]}\n</mask>', ShowMask('{"bbox": [1]}')),
    ('<mask>[]</mask> and more', ShowMask('[]')), ('<mask></mask>', ShowMask('')),
    ('<think><mask>{}</mask></think>', None), ('<mask>{}</mask><answer>{}</answer>', None),
    ('<mask><answer>{}</answer></mask>', None), ('</mask>', None),
    ('<mask>{"bbox": [1]', BadCall('bad_mask')), ('</mask><mask>', BadCall('bad_mask')),
    ('<mask>{}</mask><mask>{}</mask>', BadCall('several_calls')),
    ('<mask>{}</mask><zoom>[1, 2, 30.5, 40]</zoom>', BadCall('several_calls')),
    ('<zoom>[1, 2, 30.5, 40]<mask>{}</mask>', BadCall('several_calls')),
    ('<zoom>[1, 4, 3, 2]</zoom>', BadCall('empty_box'))])
def test_turns(text, found):
    assert read_turn(text) == found


@pytest.mark.parametrize('coordinates, unit, box', [
    ('pixels', 'in pixels', (10.0, 100.0, 200.0, 210.0)),
    ('relative_1000', 'from 0 to 1000', (10.0, 100.0, 200.0, 210.0)),
    ('relative_1', 'to [0,1]', (0.01, 0.1, 0.2, 0.21))])
def test_the_form_in_the_prompt_is_read(coordinates, unit, box):
    text = build_messages('the dog', 'zoom', coordinates)[0]['content'][1]['text']
    assert text.startswith('Find "the dog" in the image') and unit in text
    call = text[text.index('<zoom>'):text.index('</zoom>') + len('</zoom>')]
    assert read_turn(f'<think>t</think>{call}') == Zoom(box)
    assert call == format_zoom(box, coordinates)


def test_which_templates_offer_calls():
    assert offers_calls('zoom') and offers_calls('{question} <zoom>[x]</zoom>')
    assert offers_calls('zoom_and_mask') and offers_calls('{question} <mask>x</mask>')
    assert not offers_calls('default') and not offers_calls('zoom into {question}')


def test_replies():
    assert reply_text((56, 84), 0) == (
        'This is that part of the image, 84 pixels wide and 56 high. Coordinates now refer to this '
        'image. Now answer.')
    assert reply_text(BadCall('outside'), 1) == (
        'Nothing is shown: the box should overlap the image. You may look closer 1 more time.')
    assert reply_text(None, 1) == (
        'This is the image that you were shown last, with the mask of your answer outlined. '
        'Coordinates still refer to it. You may look closer 1 more time.')
    for reason in BAD_CALLS:
        assert reply_text(BadCall(reason), 2).endswith('You may look closer 2 more times.')
    # a reply is no call by itself if a policy repeats it
    assert read_turn(reply_text(BadCall('several_calls'), 1)) is None
