# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .answer import Answer, new_log
from .reason_seg_inferencer import ReasonSegInferencer

__all__ = ['Answer', 'ReasonSegInferencer', 'new_log']
