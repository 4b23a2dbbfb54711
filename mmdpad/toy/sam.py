# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The toy SAM, `model='vit_shapes'` of :class:`mmdpad.models.SAMDecoder`. Importing this module
adds it to `segment_anything.sam_model_registry`."""
from __future__ import annotations

from functools import partial

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)

SHAPES_SAM_NAME = 'vit_shapes'
_SIZE, _PATCH, _WIDTH = 112, 8, 64


def build_sam_shapes(checkpoint: str | None = None) -> Sam:
    """Build the toy SAM (0.4 million parameters, 112-pixel images).

    Args:
        checkpoint: File with its state dict, in float16 or float32; None leaves it random.

    Returns:
        The model in float32 and evaluation mode.
    """
    cells = _SIZE // _PATCH
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=_SIZE, patch_size=_PATCH, embed_dim=_WIDTH, depth=3, num_heads=4,
            mlp_ratio=3, out_chans=_WIDTH, qkv_bias=True, use_rel_pos=True, window_size=7,
            global_attn_indexes=(), norm_layer=partial(torch.nn.LayerNorm, eps=1e-6)),
        prompt_encoder=PromptEncoder(
            embed_dim=_WIDTH, image_embedding_size=(cells, cells),
            input_image_size=(_SIZE, _SIZE), mask_in_chans=8),
        mask_decoder=MaskDecoder(
            transformer_dim=_WIDTH, num_multimask_outputs=3, iou_head_depth=3,
            iou_head_hidden_dim=_WIDTH,
            transformer=TwoWayTransformer(depth=2, embedding_dim=_WIDTH, num_heads=4,
                                          mlp_dim=128)),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375])
    if checkpoint is not None:
        sam.load_state_dict(torch.load(checkpoint, map_location='cpu', weights_only=True))
    return sam.eval()


sam_model_registry[SHAPES_SAM_NAME] = build_sam_shapes
