# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A box and points become a mask, by the tracker of SAM 3."""

from __future__ import annotations

from transformers import Sam3TrackerModel, Sam3TrackerProcessor

from mmdpad.registry import MODELS

from .hf_sam_decoder import HFSAMDecoder


@MODELS.register_module()
class SAM3Decoder(HFSAMDecoder):
    """SAM 3's frozen tracker on single images, its part that takes boxes and points; arguments as
    of :class:`HFSAMDecoder`.

    The published folder, ``facebook/sam3``, holds the whole model. The tracker shares the
    detector's image encoder and has a neck of its own; left in the file are the rest of the
    detector (``detector_model.*``) and the memory, in the names that :class:`SAM2Decoder` lists.
    Anything else that the tracker lacks is an error.

    The embeddings of an image take 21 MB.
    """

    model_class = Sam3TrackerModel
    processor_class = Sam3TrackerProcessor
    model_types = ('sam3_tracker', 'sam3_video')
    example = 'facebook/sam3'
