# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .discrimination_metric import DiscriminationMetric
from .reason_seg_metric import ReasonSegMetric
from .ref_seg_metric import RefSegMetric
from .reward_metric import RewardMetric

__all__ = ['DiscriminationMetric', 'ReasonSegMetric', 'RewardMetric', 'RefSegMetric']
