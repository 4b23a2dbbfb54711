# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .discriminative_reward_hook import DiscriminativeRewardHook
from .plain_checkpoint_hook import PlainCheckpointHook
from .rollout_log_hook import RolloutLogHook

__all__ = ['DiscriminativeRewardHook', 'PlainCheckpointHook', 'RolloutLogHook']
