# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .box_decoder import BoxDecoder
from .detector_decoder import DetectorDecoder
from .hf_sam_decoder import HFSAMDecoder
from .sam2_decoder import SAM2Decoder
from .sam3_decoder import SAM3Decoder
from .sam_decoder import SAMDecoder
from .sam_hq_decoder import SAMHQDecoder

__all__ = [
    'BoxDecoder', 'DetectorDecoder', 'HFSAMDecoder', 'SAM2Decoder', 'SAM3Decoder', 'SAMDecoder',
    'SAMHQDecoder'
]
