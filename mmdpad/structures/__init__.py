# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Data structures that pass between the components. Names are imported on first use; only
``RolloutBatch`` and ``LossScale`` need torch."""

from typing import TYPE_CHECKING

from mmdpad.utils.late_exports import late_exports

if TYPE_CHECKING:
    from .candidates import Candidate, Selection
    from .conversation import ConversationRecord, read_turns, write_turns
    from .packing import fill
    from .reasoning_output import AnsweredObject, ParseFailure, ReasoningOutput
    from .rollout import LossScale, RolloutBatch, response_lengths

__all__ = ['AnsweredObject', 'Candidate', 'ConversationRecord', 'LossScale', 'ParseFailure',
           'ReasoningOutput', 'RolloutBatch', 'Selection', 'fill', 'read_turns',
           'response_lengths', 'write_turns']
__getattr__, __dir__ = late_exports(__name__, {
    'candidates': ('Candidate', 'Selection'),
    'conversation': ('ConversationRecord', 'read_turns', 'write_turns'),
    'packing': ('fill',),
    'reasoning_output': ('AnsweredObject', 'ParseFailure', 'ReasoningOutput'),
    'rollout': ('LossScale', 'RolloutBatch', 'response_lengths')})
