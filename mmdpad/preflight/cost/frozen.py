# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The cost of models that are never trained: CLIP for a reward, SAM as mask decoder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import open_clip
import torch
from segment_anything import sam_model_registry
from torch import nn

from mmdpad.models.cost.workload import Workload
from mmdpad.models.weights import first_line


@dataclass(frozen=True)
class FrozenCost:
    """Bytes of a model's weights, and its floating point operations in a training step."""

    bytes: int
    flops: int


def clip_cost(config: Mapping[str, Any], prompts: int, responses: int) -> FrozenCost:
    """Cost of a discriminator: two images per prompt (region and whole image), one text per
    response.

    Args:
        config: Config of a :class:`mmdpad.models.CLIPDiscriminator`.
        prompts, responses: Their numbers in a step.

    Raises:
        ValueError: open_clip does not know ``model_name``.
    """
    name = config.get('model_name', 'ViT-B-32')
    sizes = _clip_sizes(name if name.startswith('local-dir:') else name.replace('/', '-'))
    size = 4 if config.get('precision', 'fp32') == 'fp32' else 2
    images = 2 * prompts * 2 * sizes.visual * sizes.patches
    texts = responses * 2 * sizes.text * sizes.context
    return FrozenCost(size * sizes.weights, images + texts)


class _CLIPSizes(NamedTuple):
    """Weights of a CLIP: all, and of its matrices for images and for texts; tokens of an image and
    of a text."""

    weights: int
    visual: int
    text: int
    patches: int
    context: int


@cache
def _clip_sizes(name: str) -> _CLIPSizes:
    disabled, logging.root.disabled = logging.root.disabled, True  # it warns about missing weights
    try:
        with torch.device('meta'):
            model = open_clip.create_model(name, load_weights=False, device='meta')
    except RuntimeError as error:
        raise ValueError(f'`discriminator.model_name` should be a model of open_clip or '
                         f'"local-dir:PATH", but got {name!r}: {first_line(error)}; correct '
                         f'it') from error
    finally:
        logging.root.disabled = disabled
    weights, visual = _weights(model), _weights(model.visual)
    embeddings = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding))
    patch = model.visual.conv1.kernel_size[0] if hasattr(model.visual, 'conv1') else 16
    side = model.visual.image_size
    side = side if isinstance(side, int) else side[0]
    return _CLIPSizes(weights, visual, weights - visual - embeddings, (side // patch)**2 + 1,
                      model.context_length or 77)


def sam_cost(config: Mapping[str, Any], images: int) -> FrozenCost:
    """Cost of a mask decoder. Operations are those of its image encoder; a mask takes 3.7 GFLOP,
    1/1500 of an image with ViT-H and 1/260 with ViT-B.

    Args:
        config: Config of a :class:`mmdpad.models.SAMDecoder`.
        images: Number of images that it encodes in a step.

    Raises:
        ValueError: No SAM of this name is registered.
    """
    name = config.get('model', 'vit_h')
    if name not in sam_model_registry:
        raise ValueError(f'`model.decoder.model` should be one of {sorted(sam_model_registry)}, '
                         f'but got {name!r}; correct it, or import the module that registers it '
                         f'(`custom_imports`)')
    weights, operations = _sam_sizes(sam_model_registry[name])
    return FrozenCost(4 * weights, images * operations)


def sam_encodings(work: Workload, shown: int, rewarded: bool, in_crop: bool, kept: int) -> int:
    """How many images a mask decoder encodes in a step, at most: those whose embeddings it does not
    have any more when it decodes a mask.

    Args:
        work: The workload.
        shown: Masks that a conversation may ask for.
        rewarded: Whether a reward decodes the answers.
        in_crop: Whether a conversation that asked for a crop has its masks decoded there.
        kept: Images whose embeddings the decoder keeps.
    """
    def count(images: int, times: int) -> int:
        return images * (min(times, 1) if images <= kept else times)

    found = count(work.prompts, shown + rewarded)
    if in_crop:  # one of the masks gives way to a crop
        found = max(found, count(work.responses, max(shown - 1, 0) + rewarded))
    return found


@cache
def _sam_sizes(build: Callable[[], nn.Module]) -> tuple[int, int]:
    """Weights of a SAM, and operations of its image encoder for an image."""
    with torch.device('meta'):
        model = build()
    encoder = model.image_encoder
    cells = (encoder.img_size // encoder.patch_embed.proj.kernel_size[0])**2
    pairs = sum(cells * (block.window_size**2 or cells) for block in encoder.blocks)
    width = encoder.patch_embed.proj.out_channels
    return _weights(model), 2 * _weights(encoder) * cells + 4 * width * pairs


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
