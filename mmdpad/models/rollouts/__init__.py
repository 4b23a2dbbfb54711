# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .conversations import Conversation, ConversationSampler
from .engine import DrawingEngine, RolloutEngine
from .hf_rollout import HFRollout
from .sampling import Responses
from .shared_prefix_rollout import SharedPrefixRollout
from .vllm_rollout import VLLMRollout
from .vllm_server_rollout import VLLMServerRollout

__all__ = ['Conversation', 'ConversationSampler', 'DrawingEngine', 'HFRollout', 'Responses',
           'RolloutEngine', 'SharedPrefixRollout', 'VLLMRollout', 'VLLMServerRollout']
