# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Inference from Python. Names are imported on first use."""

from typing import TYPE_CHECKING

from mmdpad.utils.late_exports import late_exports

if TYPE_CHECKING:
    from .answer import Answer, new_log
    from .mmdet_config import config_for_mmdet
    from .reason_seg_inferencer import ReasonSegInferencer

__all__ = ['Answer', 'ReasonSegInferencer', 'config_for_mmdet', 'new_log']
__getattr__, __dir__ = late_exports(__name__, {
    'answer': ('Answer', 'new_log'), 'mmdet_config': ('config_for_mmdet',),
    'reason_seg_inferencer': ('ReasonSegInferencer',)})
