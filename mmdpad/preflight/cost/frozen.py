# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What the models that are never trained cost: CLIP for a reward, SAM as mask decoder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from segment_anything import sam_model_registry
from torch import nn


@dataclass(frozen=True)
class FrozenCost:
    """Bytes of a model's weights, and its operations in a training step."""

    bytes: int
    flops: int


def clip_cost(config: Mapping[str, Any], prompts: int, responses: int) -> FrozenCost:
    """A discriminator's: two pictures of a prompt (region and image), a text of each response.

    Args:
        config: Of a :class:`mmdpad.models.CLIPDiscriminator`.
        prompts, responses: Of a step.
    """
    name = config.get('model_name', 'ViT-B-32').replace('/', '-')
    if name.startswith('local-dir:'):
        name = config['model_name']
    disabled, logging.root.disabled = logging.root.disabled, True  # it warns of missing weights
    try:
        with torch.device('meta'):
            model = open_clip.create_model(name, load_weights=False, device='meta')
    finally:
        logging.root.disabled = disabled
    size = 4 if config.get('precision', 'fp32') == 'fp32' else 2
    weights = _weights(model)
    visual = _weights(model.visual)
    embeddings = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding))
    patch = model.visual.conv1.kernel_size[0] if hasattr(model.visual, 'conv1') else 16
    side = model.visual.image_size
    side = side if isinstance(side, int) else side[0]
    pictures = 2 * prompts * 2 * visual * ((side // patch)**2 + 1)
    texts = responses * 2 * (weights - visual - embeddings) * (model.context_length or 77)
    return FrozenCost(size * weights, pictures + texts)


def sam_cost(config: Mapping[str, Any], images: int) -> FrozenCost:
    """A decoder's, with the operations of its image encoder for some images (the rest is small).

    Args:
        config: Of a :class:`mmdpad.models.SAMDecoder`.
        images: Whose masks are drawn in a step.
    """
    name = config.get('model', 'vit_h')
    if name not in sam_model_registry:
        raise ValueError(f'`model.decoder.model` should be one of {sorted(sam_model_registry)}, '
                         f'but got {name!r}; correct it, or import what registers it '
                         f'(`custom_imports`)')
    with torch.device('meta'):
        model = sam_model_registry[name]()
    encoder = model.image_encoder
    cells = (encoder.img_size // encoder.patch_embed.proj.kernel_size[0])**2
    pairs = sum(cells * (block.window_size**2 or cells) for block in encoder.blocks)
    width = encoder.patch_embed.proj.out_channels
    return FrozenCost(4 * _weights(model),
                      images * (2 * _weights(encoder) * cells + 4 * width * pairs))


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
