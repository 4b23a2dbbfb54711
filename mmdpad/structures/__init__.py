# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What passes between the parts. Its names are imported when they are first used: only
``RolloutBatch`` brings torch."""

from typing import TYPE_CHECKING

from mmdpad.utils.late_exports import late_exports

if TYPE_CHECKING:
    from .packing import fill
    from .reasoning_output import AnsweredObject, ParseFailure, ReasoningOutput
    from .rollout import RolloutBatch

__all__ = ['AnsweredObject', 'ParseFailure', 'ReasoningOutput', 'RolloutBatch', 'fill']
__getattr__, __dir__ = late_exports(__name__, {
    'packing': ('fill',),
    'reasoning_output': ('AnsweredObject', 'ParseFailure', 'ReasoningOutput'),
    'rollout': ('RolloutBatch',)})
