# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
from .box_decoder import BoxDecoder
from .detector_decoder import DetectorDecoder
from .sam_decoder import SAMDecoder

__all__ = ['BoxDecoder', 'DetectorDecoder', 'SAMDecoder']
