# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Data sets, the steps of their pipelines, and the order in which they are read."""

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
