# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .packing import fill
from .reasoning_output import AnsweredObject, ParseFailure, ReasoningOutput
from .rollout import RolloutBatch

__all__ = ['AnsweredObject', 'ParseFailure', 'ReasoningOutput', 'RolloutBatch', 'fill']
