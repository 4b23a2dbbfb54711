# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .coco_metric import CocoMetric
from .discrimination_metric import DiscriminationMetric
from .reason_seg_metric import ReasonSegMetric
from .ref_seg_metric import RefSegMetric
from .reward_metric import RewardMetric

__all__ = ['CocoMetric', 'DiscriminationMetric', 'ReasonSegMetric', 'RefSegMetric', 'RewardMetric']
