# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Turns of a conversation in which the policy looks closer before it answers: how its calls are
read, and what it is told in reply.

A turn is reasoning followed by a call or by the answer, which ends the conversation. A call is
``<zoom>[x1, y1, x2, y2]</zoom>``, which shows a part of the image, or ``<mask>...</mask>`` around
an answer, which shows its mask. Coordinates always refer to the image that was shown last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mmdpad.structures.reasoning_output import Box

from .parser import after_reasoning, load_json, read_numbers
from .template import MASK_TAGS, TEMPLATES, ZOOM_TAGS, format_zoom

BAD_CALLS = {
    'several_calls': 'a turn should have one call',
    'bad_box': f'a call should be {"[x1, y1, x2, y2]".join(ZOOM_TAGS)} with four numbers',
    'empty_box': 'x2 should be larger than x1, and y2 larger than y1',
    'outside': 'the box should overlap the image',
    'bad_mask': f'a call should be {"...".join(MASK_TAGS)} around a complete answer',
    'no_masks': 'there are no masks to check',
}
"""Why a call cannot be used -> what the policy is told of it."""


class Zoom(NamedTuple):
    """A call that asks for a part of the image.

    Attributes:
        box: XYXY with positive area, in the coordinates that the policy writes, of the image that
            was shown last. It may reach beyond that image.
    """

    box: Box


class ShowMask(NamedTuple):
    """A call that asks for the mask of an answer.

    Attributes:
        answer: What the policy would write as the answer, without the tags around it.
    """

    answer: str


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
    return f'<think>{think}</think>\n{format_zoom(box, coordinates)}'


def read_turn(text: str) -> Zoom | ShowMask | BadCall | None:
    """Read the call in a turn, in time linear in its length.

    Args:
        text: Anything a model may have written.

    Returns:
        The call after the reasoning; None if there is none, or an answer, too. Then the turn is the
        last one, and what it says is read as any response (:func:`mmdpad.prompts.parse_response`).
    """
    rest = after_reasoning(text)
    calls = [tags for tags in (ZOOM_TAGS, MASK_TAGS) for _ in range(rest.count(tags[0]))]
    if not calls or '<answer>' in rest:
        return None
    if len(calls) > 1:
        return BadCall('several_calls')
    opening, closing = calls[0]
    body, closed, _ = rest.partition(opening)[2].partition(closing)
    if calls[0] == MASK_TAGS:
        return ShowMask(body.strip()) if closed else BadCall('bad_mask')
    box = read_numbers(load_json(body), 4) if closed else None
    if box is None:
        return BadCall('bad_box')
    if box[2] <= box[0] or box[3] <= box[1]:
        return BadCall('empty_box')
    return Zoom(box)


def offers_calls(template: str) -> bool:
    """Whether a prompt template, or the one of this name, mentions a call."""
    return ZOOM_TAGS[0] in TEMPLATES.get(template, template) or offers_masks(template)


def offers_masks(template: str) -> bool:
    """Whether it mentions a call for a mask."""
    return MASK_TAGS[0] in TEMPLATES.get(template, template)


def reply_text(found: tuple[int, int] | BadCall | None, looks_left: int) -> str:
    """Write the text of the reply to a call.

    Args:
        found: (height, width) in pixels of the crop that the reply shows; None if it shows a mask;
            or the call if it cannot be used.
        looks_left: How many more calls will be replied to.
    """
    if isinstance(found, BadCall):
        text = f'Nothing is shown: {BAD_CALLS[found.reason]}.'
    elif found is None:
        text = ('This is the image that you were shown last, with the mask of your answer '
                'outlined. Coordinates still refer to it.')
    else:
        text = (f'This is that part of the image, {found[1]} pixels wide and {found[0]} high. '
                f'Coordinates now refer to this image.')
    if not looks_left:
        return f'{text} Now answer.'
    return f'{text} You may look closer {looks_left} more time{"s" if looks_left > 1 else ""}.'
