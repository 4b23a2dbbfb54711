# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What happened in a conversation in which a policy looked closer before it answered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ENDINGS = ('answer', 'length', 'turns', 'tokens')
"""How a conversation ends: with a turn without a call; with one that the length limit cut off; with
a call, but no turn was left; or with a call, but too few tokens were left."""


@dataclass(frozen=True)
class ConversationRecord:
    """A finished conversation, without its tokens.

    Attributes:
        texts: What the policy wrote, turn by turn.
        crops: What the images showed that it was shown after calls, in order: each a
            :class:`mmdpad.geometry.crops.Crop`.
        bad_calls: Reasons of calls that could not be used (:data:`mmdpad.prompts.zoom.BAD_CALLS`).
        ended_by: One of :data:`ENDINGS`.
        masks: How many times its mask was drawn for it.
    """

    texts: tuple[str, ...]
    crops: tuple[Any, ...]
    bad_calls: tuple[str, ...]
    ended_by: str
    masks: int = 0

    @property
    def response(self) -> str:
        """All turns as one text, which :func:`read_turns` reads."""
        return write_turns(self.texts)

    def describe(self) -> dict[str, Any]:
        """Plain data for result files: ``turns`` (texts), ``crops`` (boxes XYXY in pixels of the
        original image), ``bad_calls``, ``ended_by`` and ``masks``."""
        return dict(turns=list(self.texts), crops=[list(crop.box) for crop in self.crops],
                    bad_calls=list(self.bad_calls), ended_by=self.ended_by, masks=self.masks)


def write_turns(texts: Sequence[str]) -> str:
    """Write the turns of a policy as one text, a JSON list."""
    return json.dumps(list(texts))


def read_turns(response: str) -> list[str] | None:
    """The turns in what :func:`write_turns` wrote; None if a text is no list of texts."""
    try:
        texts = json.loads(response)
    except (ValueError, RecursionError):
        return None
    is_list = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    return texts if is_list else None


def turns_of(line: Mapping[str, Any]) -> list[str]:
    """What the policy wrote, turn by turn, by a line of a rollout log: its only response, if it is
    not of a conversation (:meth:`ConversationRecord.describe`)."""
    return line['conversation']['turns'] if line.get('conversation') else [line['response']]
