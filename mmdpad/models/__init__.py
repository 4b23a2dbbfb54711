# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .decoders import (
    BoxDecoder,
    DetectorDecoder,
    HFSAMDecoder,
    SAM2Decoder,
    SAM3Decoder,
    SAMDecoder,
    SAMHQDecoder,
)
from .discriminators import CLIPDiscriminator, DiscriminativeReward
from .heads import VLMReasoningHead
from .rollouts import HFRollout, SharedPrefixRollout, VLLMRollout
from .segmentors import ReasoningSegmentor

__all__ = ['BoxDecoder', 'CLIPDiscriminator', 'DetectorDecoder', 'DiscriminativeReward',
           'HFRollout', 'HFSAMDecoder', 'ReasoningSegmentor', 'SAM2Decoder', 'SAM3Decoder',
           'SAMDecoder', 'SAMHQDecoder', 'SharedPrefixRollout', 'VLLMRollout',
           'VLMReasoningHead']
