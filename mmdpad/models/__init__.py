# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .decoders import BoxDecoder, DetectorDecoder, SAMDecoder
from .discriminators import CLIPDiscriminator, DiscriminativeReward
from .heads import VLMReasoningHead
from .rollouts import HFRollout, SharedPrefixRollout, VLLMRollout
from .segmentors import ReasoningSegmentor

__all__ = ['BoxDecoder', 'CLIPDiscriminator', 'DetectorDecoder', 'DiscriminativeReward',
           'HFRollout', 'ReasoningSegmentor', 'SAMDecoder', 'SharedPrefixRollout',
           'VLLMRollout', 'VLMReasoningHead']
