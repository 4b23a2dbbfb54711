# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .encoded_prompt import EncodedPrompt, collate_text
from .families import register_family
from .policy_family import PolicyFamily
from .prompt_encoder import check_prompt_lengths
from .vlm_reasoning_head import VLMReasoningHead

__all__ = ['EncodedPrompt', 'PolicyFamily', 'VLMReasoningHead', 'check_prompt_lengths',
           'collate_text', 'register_family']
