# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .advantage import (
    ADVANTAGES,
    check_estimator,
    compute_advantages,
    group_relative_advantage,
    has_signal,
)
from .aggregation import AGGREGATIONS, aggregate
from .grpo_loss import GRPOLoss, LossInputs, PolicyLoss
from .importance import effective_sample_sizes, importance_weights
from .kl import KL_ESTIMATORS, approximate_kl
from .policy_loss import check_objective, policy_loss

__all__ = [
    'ADVANTAGES', 'AGGREGATIONS', 'GRPOLoss', 'KL_ESTIMATORS', 'LossInputs', 'PolicyLoss',
    'aggregate', 'approximate_kl', 'check_estimator', 'check_objective',
    'compute_advantages', 'effective_sample_sizes', 'group_relative_advantage', 'has_signal',
    'importance_weights', 'policy_loss'
]
