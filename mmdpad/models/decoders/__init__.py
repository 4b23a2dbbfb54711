# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .box_decoder import BoxDecoder
from .concept_decoder import ConceptDecoder
from .detector_decoder import DetectorDecoder
from .hf_sam_decoder import HFSAMDecoder, SAM2Decoder, SAM3Decoder, SAMHQDecoder
from .sam3_concept_decoder import SAM3ConceptDecoder
from .sam_decoder import SAMDecoder

__all__ = [
    'BoxDecoder', 'ConceptDecoder', 'DetectorDecoder', 'HFSAMDecoder', 'SAM2Decoder',
    'SAM3ConceptDecoder', 'SAM3Decoder', 'SAMDecoder', 'SAMHQDecoder'
]
