# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .discrimination_metric import DiscriminationMetric
from .reason_seg_metric import ReasonSegMetric
from .reward_metric import RewardMetric
from .union_ref_seg_metric import UnionRefSegMetric

__all__ = ['DiscriminationMetric', 'ReasonSegMetric', 'RewardMetric', 'UnionRefSegMetric']
