# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Turns of a conversation in which the policy looks closer before it answers: how its calls are
read, and what it is told in reply.

A turn is reasoning followed by a call ``<zoom>[x1, y1, x2, y2]</zoom>`` or by the answer, which
ends the conversation. Coordinates always refer to the image that was shown last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from mmdpad.geometry.coordinates import round_coordinate
from mmdpad.structures.reasoning_output import Box

from .parser import after_reasoning, load_json, read_numbers
from .template import TEMPLATES

_OPENING, _CLOSING = '<zoom>', '</zoom>'

ZOOM_TEMPLATE = TEMPLATES['default'] + (
    f'\nIf you cannot see enough, do not answer yet: after your reasoning write the box of a part '
    f'of the image, as in {_OPENING}[10, 100, 200, 210]{_CLOSING}, and you are shown that part '
    f'enlarged. Coordinates always refer to the image that you were shown last.')
"""Prompt template that asks for an answer about one object, or for a call before it."""

BAD_CALLS = {
    'several_calls': 'a turn should have one call',
    'bad_box': f'a call should be {_OPENING}[x1, y1, x2, y2]{_CLOSING} with four numbers',
    'empty_box': 'x2 should be larger than x1, and y2 larger than y1',
    'outside': 'the box should overlap the image',
}
"""Why a call cannot be used -> what the policy is told of it."""


class Zoom(NamedTuple):
    """A call that asks for a part of the image.

    Attributes:
        box: XYXY with positive area, in the coordinates that the policy writes, of the image that
            was shown last. It may reach beyond that image.
    """

    box: Box


class BadCall(NamedTuple):
    """A call that cannot be used.

    Attributes:
        reason: One of :data:`BAD_CALLS`.
    """

    reason: str


def format_call(think: str, box: Sequence[float], coordinates: str = 'pixels') -> str:
    """Write a turn with a call.

    Args:
        think: The reasoning.
        box: (x1, y1, x2, y2) in the policy's coordinates, of the image shown last.
        coordinates: Those coordinates, as in :func:`mmdpad.prompts.format_response`.
    """
    values = [round_coordinate(value, coordinates) for value in box]
    return f'<think>{think}</think>\n{_OPENING}{json.dumps(values)}{_CLOSING}'


def read_turn(text: str) -> Zoom | BadCall | None:
    """Read the call in a turn, in time linear in its length.

    Args:
        text: Anything a model may have written.

    Returns:
        The call after the reasoning; None if there is none, or an answer, too. Then the turn is the
        last one, and what it says is read as any response (:func:`mmdpad.prompts.parse_response`).
    """
    rest = after_reasoning(text)
    calls = rest.count(_OPENING)
    if not calls or '<answer>' in rest:
        return None
    if calls > 1:
        return BadCall('several_calls')
    body, closed, _ = rest.partition(_OPENING)[2].partition(_CLOSING)
    box = read_numbers(load_json(body), 4) if closed else None
    if box is None:
        return BadCall('bad_box')
    if box[2] <= box[0] or box[3] <= box[1]:
        return BadCall('empty_box')
    return Zoom(box)


def reply_text(found: tuple[int, int] | BadCall, looks_left: int) -> str:
    """Write the text of the reply to a call.

    Args:
        found: (height, width) in pixels of the crop that the reply shows, or the call if it cannot
            be used.
        looks_left: How many more calls will be replied to.
    """
    if isinstance(found, BadCall):
        text = f'Nothing is shown: {BAD_CALLS[found.reason]}.'
    else:
        text = (f'This is that part of the image, {found[1]} pixels wide and {found[0]} high. '
                f'Coordinates now refer to this image.')
    if not looks_left:
        return f'{text} Now answer.'
    return f'{text} You may look closer {looks_left} more time{"s" if looks_left > 1 else ""}.'
