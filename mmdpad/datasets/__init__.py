# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Data sets, pipeline transforms and samplers.

Names are imported on first use; a config finds them through ``registered.py``.
"""

from typing import TYPE_CHECKING

from mmdpad.utils.late_exports import late_exports

if TYPE_CHECKING:
    from . import samplers, transforms
    from .answer_lines import AnswerLinesDataset, VisualCoTDataset
    from .errors import DatasetError
    from .gqa import GQADataset
    from .json_lines import JsonLinesDataset
    from .mask_folder import MaskFolderDataset
    from .question_answering import QuestionAnsweringDataset
    from .question_dataset import QuestionDataset
    from .reason_seg import ReasonSegDataset
    from .reason_seg_annotation import read_reasonseg_annotation
    from .reasoning_dataset import ReasoningDataset
    from .referring_seg import ReferringSegDataset
    from .roboflow import RoboflowDataset
    from .seg_zero import SegZeroDataset
    from .seg_zero_eval import SegZeroEvalDataset
    from .visual7w import Visual7WDataset
    from .vqa import TextVQADataset, VQADataset

__all__ = [
    'AnswerLinesDataset', 'DatasetError', 'GQADataset', 'JsonLinesDataset', 'MaskFolderDataset',
    'QuestionAnsweringDataset', 'QuestionDataset', 'ReasonSegDataset', 'ReasoningDataset',
    'ReferringSegDataset', 'RoboflowDataset', 'SegZeroDataset', 'SegZeroEvalDataset',
    'TextVQADataset', 'VQADataset', 'Visual7WDataset', 'VisualCoTDataset',
    'read_reasonseg_annotation', 'samplers', 'transforms'
]
__getattr__, __dir__ = late_exports(__name__, {
    'answer_lines': ('AnswerLinesDataset', 'VisualCoTDataset'),
    'errors': ('DatasetError',),
    'gqa': ('GQADataset',),
    'json_lines': ('JsonLinesDataset',),
    'mask_folder': ('MaskFolderDataset',),
    'question_answering': ('QuestionAnsweringDataset',),
    'question_dataset': ('QuestionDataset',),
    'reason_seg': ('ReasonSegDataset',),
    'reason_seg_annotation': ('read_reasonseg_annotation',),
    'reasoning_dataset': ('ReasoningDataset',),
    'referring_seg': ('ReferringSegDataset',),
    'roboflow': ('RoboflowDataset',),
    'samplers': (),
    'seg_zero': ('SegZeroDataset',),
    'seg_zero_eval': ('SegZeroEvalDataset',),
    'transforms': (),
    'visual7w': ('Visual7WDataset',),
    'vqa': ('TextVQADataset', 'VQADataset'),
})
