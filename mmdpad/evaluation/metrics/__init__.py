# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .coco_metric import CocoMetric
from .detection_metric import DetectionMetric
from .discrimination_metric import DiscriminationMetric
from .lvis_metric import LVISMetric
from .nms_ap_metric import NMSAPMetric
from .question_answering_metric import QuestionAnsweringMetric
from .reason_seg_metric import ReasonSegMetric
from .ref_seg_metric import RefSegMetric
from .reward_metric import RewardMetric
from .selection_metric import SelectionMetric

__all__ = ['CocoMetric', 'DetectionMetric', 'DiscriminationMetric', 'LVISMetric', 'NMSAPMetric',
           'QuestionAnsweringMetric', 'ReasonSegMetric', 'RefSegMetric', 'RewardMetric',
           'SelectionMetric']
