# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Data sets, pipeline transforms and samplers.

Names are imported on first use; a config finds them through ``registered.py``.
"""

from typing import TYPE_CHECKING

from mmdpad.utils.late_exports import late_exports

if TYPE_CHECKING:
    from . import samplers, transforms
    from .errors import DatasetError
    from .json_lines import JsonLinesDataset
    from .mask_folder import MaskFolderDataset
    from .question_dataset import QuestionDataset
    from .reason_seg import ReasonSegDataset
    from .reason_seg_annotation import read_reasonseg_annotation
    from .reasoning_dataset import ReasoningDataset
    from .referring_seg import ReferringSegDataset
    from .seg_zero import SegZeroDataset
    from .seg_zero_eval import SegZeroEvalDataset

__all__ = [
    'DatasetError', 'JsonLinesDataset', 'MaskFolderDataset', 'QuestionDataset',
    'ReasonSegDataset', 'ReasoningDataset', 'ReferringSegDataset', 'SegZeroDataset',
    'SegZeroEvalDataset', 'read_reasonseg_annotation', 'samplers', 'transforms'
]
__getattr__, __dir__ = late_exports(__name__, {
    'errors': ('DatasetError',),
    'json_lines': ('JsonLinesDataset',),
    'mask_folder': ('MaskFolderDataset',),
    'question_dataset': ('QuestionDataset',),
    'reason_seg': ('ReasonSegDataset',),
    'reason_seg_annotation': ('read_reasonseg_annotation',),
    'reasoning_dataset': ('ReasoningDataset',),
    'referring_seg': ('ReferringSegDataset',),
    'samplers': (),
    'seg_zero': ('SegZeroDataset',),
    'seg_zero_eval': ('SegZeroEvalDataset',),
    'transforms': (),
})
