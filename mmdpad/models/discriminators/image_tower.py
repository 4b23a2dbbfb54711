# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Runs open_clip's image towers on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import linear, unfold

from mmdpad.models.windows import Windows

from .blocks import are_plain, run_block


def encode_images(clip: Any, pixels: Tensor) -> Tensor:
    """Run ``clip.encode_image`` so that the bits of an image's result do not depend on the others.

    Each product has the rows of one image. The images pass the blocks of a usual tower together,
    one after the other within each block, so that its weights are read once; of the last block,
    only what the result depends on is computed.

    Args:
        clip: A model of open_clip.
        pixels: (P, 3, S, S) in the tower's type, P > 0.

    Returns:
        (P, D) in the model's type.
    """
    tower = clip.visual
    if not _is_plain(tower):
        return torch.cat([clip.encode_image(image) for image in pixels.split(1)])
    images = [_embed(tower, image) for image in pixels]
    windows = Windows([len(images[0])], pixels.device)
    *blocks, last = tower.transformer.resblocks
    for block in blocks:
        images = [run_block(block, tokens, windows, causal=False) for tokens in images]
    first = torch.zeros(1, dtype=torch.long, device=pixels.device)
    return torch.cat([_pool(tower, run_block(last, tokens, windows, causal=False, kept=first))
                      for tokens in images])


def _is_plain(tower: Any) -> bool:
    """Whether the result of a tower is the state of its first token after usual blocks."""
    return (type(tower) is VisionTransformer and tower.attn_pool is None
            and tower.pool_type == 'tok' and not tower.output_tokens
            and are_plain(tower.transformer.resblocks))


def _embed(tower: VisionTransformer, image: Tensor) -> Tensor:
    """Embed the class and the patches of an image (3, S, S) as (1 + patches, D)."""
    convolution = tower.conv1
    patches = unfold(image[None], convolution.kernel_size, stride=convolution.stride)[0].T
    tokens = linear(patches, convolution.weight.flatten(1), convolution.bias)
    tokens = torch.cat([tower.class_embedding[None].to(tokens), tokens])
    return tower.ln_pre(tokens + tower.positional_embedding.to(tokens))


def _pool(tower: VisionTransformer, state: Tensor) -> Tensor:
    """(1, D) of the last block -> (1, D) features."""
    state = tower.ln_post(state)
    return state if tower.proj is None else state @ tower.proj
