# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .reason_seg_metric import ReasonSegMetric, score_mask
from .reward_metric import RewardMetric

__all__ = ['ReasonSegMetric', 'RewardMetric', 'score_mask']
