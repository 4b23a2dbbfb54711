# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""A box and points become a mask, by SAM 2."""

from __future__ import annotations

from transformers import Sam2Model, Sam2Processor

from mmdpad.registry import MODELS

from .hf_sam_decoder import HFSAMDecoder


@MODELS.register_module()
class SAM2Decoder(HFSAMDecoder):
    """A frozen SAM 2 or 2.1, Hiera tiny to large; arguments as of :class:`HFSAMDecoder`.

    The published folders (``facebook/sam2-hiera-large`` is the paper's) are of the video model.
    Its memory, which single images do not need, is left in the file: the weights named
    ``memory_*``, ``mask_downsample*``, ``object_pointer_proj*``,
    ``temporal_positional_encoding_projection_layer*``, ``no_memory_positional_encoding``,
    ``no_object_pointer`` and ``occlusion_spatial_embedding_parameter``. Anything else that the
    image model lacks is an error.

    The embeddings of an image take 17 MB.
    """

    model_class = Sam2Model
    processor_class = Sam2Processor
    model_types = ('sam2', 'sam2_video')
    example = 'facebook/sam2-hiera-large'
