# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .answer import Answer
from .reason_seg_inferencer import ReasonSegInferencer
from .shipped_configs import find_config

__all__ = ['Answer', 'ReasonSegInferencer', 'find_config']
