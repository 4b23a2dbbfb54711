# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .advantage import (
    ADVANTAGES,
    check_estimator,
    compute_advantages,
    decoupled_rewards,
    group_relative_advantage,
    has_signal,
)
from .aggregation import AGGREGATIONS, aggregate
from .entropy import AdaptiveEntropy, entropy_threshold
from .grpo_loss import GRPOLoss, LossInputs, PolicyLoss
from .importance import effective_sample_sizes, importance_weights
from .kl import KL_ESTIMATORS, approximate_kl
from .policy_loss import check_objective, policy_loss
from .task_spread import TaskSpread

__all__ = [
    'ADVANTAGES', 'AGGREGATIONS', 'AdaptiveEntropy', 'GRPOLoss', 'KL_ESTIMATORS', 'LossInputs',
    'PolicyLoss', 'TaskSpread', 'aggregate', 'approximate_kl', 'check_estimator', 'check_objective',
    'compute_advantages', 'decoupled_rewards', 'effective_sample_sizes', 'entropy_threshold',
    'group_relative_advantage', 'has_signal', 'importance_weights', 'policy_loss'
]
