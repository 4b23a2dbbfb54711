# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .box_decoder import BoxDecoder
from .detector_decoder import DetectorDecoder
from .hf_sam_decoder import HFSAMDecoder, SAM2Decoder, SAM3Decoder, SAMHQDecoder
from .sam_decoder import SAMDecoder

__all__ = [
    'BoxDecoder', 'DetectorDecoder', 'HFSAMDecoder', 'SAM2Decoder', 'SAM3Decoder', 'SAMDecoder',
    'SAMHQDecoder'
]
