# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .alarm_hook import AlarmHook
from .answer_store_hook import AnswerStoreHook
from .discriminative_reward_hook import DiscriminativeRewardHook
from .mask_reward_hook import MaskRewardHook
from .plain_checkpoint_hook import PlainCheckpointHook
from .provenance_hook import ProvenanceHook
from .rollout_log_hook import RolloutLogHook

__all__ = ['AlarmHook', 'AnswerStoreHook', 'DiscriminativeRewardHook', 'MaskRewardHook',
           'PlainCheckpointHook', 'ProvenanceHook', 'RolloutLogHook']
