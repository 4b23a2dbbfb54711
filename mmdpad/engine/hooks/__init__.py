# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .alarm_hook import AlarmHook
from .atomic_checkpoint_hook import AtomicCheckpointHook
from .curves_hook import CurvesHook
from .discriminative_reward_hook import DiscriminativeRewardHook
from .exact_resume_hook import ExactResumeHook
from .free_cores_hook import FreeCoresHook
from .mask_reward_hook import MaskRewardHook
from .provenance_hook import ProvenanceHook
from .reason_seg_visualization_hook import ReasonSegVisualizationHook
from .response_cache_hook import ResponseCacheHook
from .reward_hook import RewardHook
from .rollout_log_hook import RolloutLogHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .sync_reference_hook import SyncReferenceHook

__all__ = ['AlarmHook', 'AtomicCheckpointHook', 'CurvesHook', 'DiscriminativeRewardHook',
           'ExactResumeHook', 'FreeCoresHook', 'MaskRewardHook', 'ProvenanceHook',
           'ReasonSegVisualizationHook', 'ResponseCacheHook', 'RewardHook', 'RolloutLogHook',
           'SafeCheckpointHook', 'SyncReferenceHook']
