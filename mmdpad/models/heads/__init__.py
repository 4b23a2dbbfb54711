# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .families import register_family
from .policy_family import PolicyFamily
from .prompt_encoder import check_prompt_lengths
from .vlm_reasoning_head import VLMReasoningHead

__all__ = ['PolicyFamily', 'VLMReasoningHead', 'check_prompt_lengths', 'register_family']
