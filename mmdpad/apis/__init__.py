# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .answer import Answer, new_log
from .mmdet_config import config_for_mmdet
from .reason_seg_inferencer import ReasonSegInferencer

__all__ = ['Answer', 'ReasonSegInferencer', 'config_for_mmdet', 'new_log']
