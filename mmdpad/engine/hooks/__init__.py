# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .discriminative_reward_hook import DiscriminativeRewardHook
from .mask_reward_hook import MaskRewardHook
from .plain_checkpoint_hook import PlainCheckpointHook

__all__ = ['DiscriminativeRewardHook', 'MaskRewardHook', 'PlainCheckpointHook']
