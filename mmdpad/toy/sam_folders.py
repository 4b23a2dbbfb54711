# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Tiny random SAM 2, SAM 3 and SAM-HQ models as folders in the format of the published ones."""

from __future__ import annotations

import copy
import string
from collections.abc import Callable
from functools import partial
from os import PathLike
from pathlib import Path

from safetensors.torch import save_file
from transformers import (
    CLIPTokenizer,
    PreTrainedModel,
    ProcessorMixin,
    Sam2Config,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2Processor,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam2VideoProcessor,
    Sam2VideoVideoProcessor,
    Sam3ImageProcessor,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    Sam3TrackerProcessor,
    Sam3VideoConfig,
    Sam3VideoModel,
    Sam3VideoProcessor,
    SamHQConfig,
    SamHQModel,
    SamHQProcessor,
    SamImageProcessor,
)

from .seeding import seeded

_WIDTH, _SIDE, _PATCH_3 = 16, 64, 14
_SIDE_3 = 4 * _PATCH_3
_FEATURES = dict(fpn_hidden_size=_WIDTH, backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]])
_PROMPTS = dict(hidden_size=_WIDTH, image_size=_SIDE, mask_input_channels=8)
_MASKS = dict(hidden_size=_WIDTH, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=_WIDTH)
_MEMORY = dict(
    memory_attention_hidden_size=_WIDTH, memory_attention_num_layers=1,
    memory_attention_feed_forward_hidden_size=16, memory_attention_rope_feat_sizes=[4, 4],
    memory_encoder_hidden_size=_WIDTH, memory_encoder_output_channels=8,
    mask_downsampler_embed_dim=_WIDTH, memory_fuser_embed_dim=_WIDTH,
    memory_fuser_intermediate_dim=16, memory_fuser_num_layers=1)
_SAM2 = dict(
    vision_config=dict(
        backbone_config=dict(
            model_type='sam2_hiera_det_model', hidden_size=8, num_attention_heads=1,
            image_size=[_SIDE, _SIDE], blocks_per_stage=[1, 1, 2, 1],
            embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 2, 4, 8],
            window_size_per_stage=[4, 2, 2, 2], global_attention_blocks=[3],
            window_positional_embedding_background_size=[4, 4]),
        backbone_channel_list=[64, 32, 16, 8], **_FEATURES),
    prompt_encoder_config=_PROMPTS, mask_decoder_config=_MASKS)
_VISION_3 = dict(
    model_type='sam3_vision_model',
    backbone_config=dict(
        model_type='sam3_vit_model', hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, image_size=_SIDE_3, patch_size=_PATCH_3, window_size=2,
        global_attn_indexes=[1], pretrain_image_size=2 * _PATCH_3),
    **_FEATURES)
_TRACKER = dict(
    vision_config=_VISION_3, mask_decoder_config=_MASKS,
    prompt_encoder_config=dict(_PROMPTS, image_size=_SIDE_3, patch_size=_PATCH_3))
_LETTERS = string.ascii_lowercase + string.digits + "',-."
_VOCABULARY = {token: number for number, token in enumerate([
    '<|startoftext|>', '<|endoftext|>', *_LETTERS, *(f'{letter}</w>' for letter in _LETTERS)])}
_LAYER = dict(hidden_size=_WIDTH, num_attention_heads=2, intermediate_size=16, num_layers=1)
_DETECTOR = dict(
    model_type='sam3', vision_config=_VISION_3,
    text_config=dict(hidden_size=16, intermediate_size=16, projection_dim=16, num_hidden_layers=1,
                     num_attention_heads=2, vocab_size=len(_VOCABULARY), bos_token_id=0,
                     eos_token_id=1, max_position_embeddings=32),
    geometry_encoder_config=_LAYER, detr_encoder_config=_LAYER,
    detr_decoder_config=dict(_LAYER, num_queries=4),
    mask_decoder_config=dict(hidden_size=_WIDTH, num_attention_heads=2))
_HQ = dict(
    vision_config=dict(
        hidden_size=16, output_channels=_WIDTH, num_hidden_layers=2, num_attention_heads=2,
        image_size=_SIDE, patch_size=16, window_size=2, global_attn_indexes=[1],
        num_pos_feats=_WIDTH // 2),
    prompt_encoder_config=_PROMPTS, mask_decoder_config=dict(_MASKS, vit_dim=16))

Folder = str | PathLike[str]


def make_sam2_folder(folder: Folder, video: bool = False, seed: int = 0) -> str:
    """Write a SAM 2 with 80,000 parameters for images of 64 pixels.

    Args:
        folder: The destination; it is created if necessary.
        video: Write a video model (``model_type`` 'sam2_video') as Meta publishes it, with memory
            weights in addition.
        seed: Seed of the weights.

    Returns:
        The folder.
    """
    size = dict(height=_SIDE, width=_SIDE)
    images = Sam2ImageProcessor(size=size)
    if video:
        return _write(folder, Sam2VideoModel, Sam2VideoConfig(**_parts(_SAM2, **_MEMORY),
                                                              image_size=_SIDE),
                      Sam2VideoProcessor(images, Sam2VideoVideoProcessor(size=size)), seed)
    return _write(folder, Sam2Model, Sam2Config(**_parts(_SAM2)), Sam2Processor(images), seed)


def make_sam3_folder(folder: Folder, video: bool = False, seed: int = 0) -> str:
    """Write a SAM 3 tracker with 40,000 parameters for images of 56 pixels.

    With ``video``, writes a complete SAM 3 (``model_type`` 'sam3_video': detector, tracker, memory)
    as Meta publishes it, with a tokenizer of letters. See :func:`make_sam2_folder` for the
    arguments.
    """
    size = dict(height=_SIDE_3, width=_SIDE_3)
    images = Sam3ImageProcessor(size=size)
    if video:
        processor = Sam3VideoProcessor(images, Sam2VideoVideoProcessor(size=size),
                                       CLIPTokenizer(vocab=dict(_VOCABULARY), merges=[]))
        tracker = dict(_parts(_TRACKER, **_MEMORY), model_type='sam3_tracker_video')
        config = Sam3VideoConfig(detector_config=_parts(_DETECTOR), tracker_config=tracker)
        config.image_size = _SIDE_3  # sets that of every part
        return _write(folder, Sam3VideoModel, config, processor, seed)
    return _write(folder, Sam3TrackerModel, Sam3TrackerConfig(**_parts(_TRACKER)),
                  Sam3TrackerProcessor(images), seed)


def make_sam_hq_folder(folder: Folder, seed: int = 0) -> str:
    """Write a SAM-HQ with 35,000 parameters for images of 64 pixels. See :func:`make_sam2_folder`
    for the arguments."""
    processor = SamHQProcessor(SamImageProcessor(
        size=dict(longest_edge=_SIDE), pad_size=dict(height=_SIDE, width=_SIDE)))
    return _write(folder, SamHQModel, SamHQConfig(**_parts(_HQ)), processor, seed)


SAM_FOLDERS: dict[str, Callable[..., str]] = dict(
    sam2=make_sam2_folder, sam2_video=partial(make_sam2_folder, video=True),
    sam3_tracker=make_sam3_folder, sam3_video=partial(make_sam3_folder, video=True),
    sam_hq=make_sam_hq_folder)
"""The function that writes a folder of each ``model_type``, called with the folder and a seed."""


def _parts(config: dict, **more: object) -> dict:
    """Copy settings deeply, since configs may change or keep them."""
    return copy.deepcopy({**config, **more})


def _write(folder: Folder, model_class: type[PreTrainedModel], config: object,
           processor: ProcessorMixin, seed: int) -> str:
    """Write a model with weights large enough that masks are neither empty nor full.

    The weights have the names of the model's state, as published (transformers 5.23 saves a
    Sam3VideoModel with a doubled prefix).
    """
    with seeded(seed):
        model = model_class(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=parameter[0].numel()**-0.5)
    model.config.architectures = [model_class.__name__]
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    tied = getattr(model, '_tied_weights_keys', None) or {}
    save_file({name: value.contiguous() for name, value in model.state_dict().items()
               if name not in tied}, Path(folder) / 'model.safetensors',
              metadata=dict(format='pt'))
    return str(folder)
