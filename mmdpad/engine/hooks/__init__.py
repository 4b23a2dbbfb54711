# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .alarm_hook import AlarmHook
from .answer_picture_hook import AnswerPictureHook
from .answer_store_hook import AnswerStoreHook
from .atomic_checkpoint_hook import AtomicCheckpointHook
from .curves_hook import CurvesHook
from .discriminative_reward_hook import DiscriminativeRewardHook
from .exact_resume_hook import ExactResumeHook
from .free_cores_hook import FreeCoresHook
from .mask_reward_hook import MaskRewardHook
from .plain_checkpoint_hook import PlainCheckpointHook
from .provenance_hook import ProvenanceHook
from .reward_hook import RewardHook
from .rollout_log_hook import RolloutLogHook

__all__ = ['AlarmHook', 'AnswerPictureHook', 'AnswerStoreHook', 'AtomicCheckpointHook',
           'CurvesHook', 'DiscriminativeRewardHook', 'ExactResumeHook', 'FreeCoresHook',
           'MaskRewardHook', 'PlainCheckpointHook', 'ProvenanceHook', 'RewardHook',
           'RolloutLogHook']
