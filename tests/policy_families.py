# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What is known of each policy family, once for all tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Facts:
    """Of a family, as published.

    Attributes:
        name, coordinates: Of :class:`mmdpad.models.heads.families.PolicyFamily`.
        patch: Side of a patch in pixels.
        processor: Settings of the image processor, by attribute.
        side, tokens: Side of the model image in the configs, and its image tokens.
        limit: Tokens of a prompt in the configs.
        tower: Linear layers in a block of the vision tower, by name.
        flat: Whether config.json was first published without `text_config`.
        chat: What the chat template writes of a question with an image.
        ends: End tokens in generation_config.json.
        vision_tokens: Tokens that a response may not contain.
        linears: Linear layers in the language model of a tiny folder, by which LoRA counts; 0 where
            it refuses to reach all.
        tied: Whether the output head of the tiny folder is the embedding.
        estimated: Whether estimates know its layers.
    """

    name: str
    coordinates: str
    patch: int
    processor: dict[str, Any]
    side: int
    tokens: int
    tower: frozenset[str]
    flat: bool
    chat: str
    ends: tuple[str, ...] = ('<|im_end|>', '<|endoftext|>')
    vision_tokens: tuple[str, ...] = ('<|image_pad|>', '<|video_pad|>', '<|vision_start|>',
                                      '<|vision_end|>')
    linears: int = 2 * 7  # q, k, v, o, gate, up, down of two layers
    tied: bool = True
    estimated: bool = True
    limit: int = 1300


def _tower(*mlp: str) -> frozenset[str]:
    return frozenset(('attn.qkv', 'attn.proj', *(f'mlp.{name}' for name in mlp)))


def _pixels(patch: int, fewest: int, most: int) -> dict[str, Any]:
    """Facts of a processor that keeps an image of so many pixels."""
    return dict(patch=patch, processor={
        'patch_size': patch, 'merge_size': 2, 'size.shortest_edge': fewest,
        'size.longest_edge': most})


_SYSTEM = '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n'
_QWEN = ('<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{question}<|im_end|>\n'
         '<|im_start|>assistant\n')
_QWEN2 = dict(_pixels(14, 3136, 12845056), side=840, tokens=900, flat=True, chat=_SYSTEM + _QWEN)
_QWEN3 = dict(_pixels(16, 65536, 16777216), side=832, tokens=676, flat=False,
              tower=_tower('linear_fc1', 'linear_fc2'), chat=_QWEN)
# The small sizes do not think unless they are asked to.
_QWEN3_5 = dict(_QWEN3, chat=_QWEN + '<think>\n\n</think>\n\n', estimated=False)
_GLM = dict(
    _pixels(14, 12544, 11760000), side=840, tokens=900, flat=False, tied=False,
    tower=_tower('gate_proj', 'up_proj', 'down_proj'), vision_tokens=(
        '<|image|>', '<|video|>', '<|begin_of_image|>', '<|end_of_image|>', '<|begin_of_video|>',
        '<|end_of_video|>'))
_GLM_CHAT = ('[gMASK]<sop><|user|>\n<|begin_of_image|><|image|><|end_of_image|>{question}'
             '<|assistant|>')
_GLM_ENDS = ('<|endoftext|>', '<|user|>', '<|observation|>')
_GLM_DENSE = dict(_GLM, linears=2 * 6)  # gate and up are one
FACTS = dict(
    qwen2_vl=Facts('Qwen2-VL', 'relative_1000', tower=_tower('fc1', 'fc2'), **_QWEN2),
    qwen2_5_vl=Facts('Qwen2.5-VL', 'pixels', tower=_tower('gate_proj', 'up_proj', 'down_proj'),
                     **_QWEN2),
    qwen3_vl=Facts('Qwen3-VL', 'relative_1000', **_QWEN3),
    qwen3_vl_moe=Facts('Qwen3-VL-MoE', 'relative_1000', **_QWEN3, linears=2 * 4),
    # Gated DeltaNet has five linear layers, attention four, an MLP three and a shared expert four.
    qwen3_5=Facts('Qwen3.5', 'relative_1000', **_QWEN3_5, linears=5 + 4 + 2 * 3),
    qwen3_5_moe=Facts('Qwen3.5-MoE', 'relative_1000', **_QWEN3_5, linears=5 + 4 + 2 * 4),
    glm4v=Facts('GLM-4.1V', 'relative_1000', ends=(*_GLM_ENDS, '</answer>'),
                chat=_GLM_CHAT + '\n', **_GLM_DENSE),
    glm46v=Facts('GLM-4.6V', 'relative_1000', ends=_GLM_ENDS, chat=_GLM_CHAT, **_GLM_DENSE),
    glm4v_moe=Facts('GLM-4.5V', 'relative_1000', ends=_GLM_ENDS, chat=_GLM_CHAT, linears=0,
                    estimated=False, **_GLM),
    # Tiles of 512 x 512 with 256 tokens each, and as many for the thumbnail.
    lfm2_vl=Facts(
        'LFM2-VL', 'relative_1', patch=16, side=1024, tokens=5 * 256, limit=1700, flat=False,
        processor=dict(encoder_patch_size=16, downsample_factor=2, tile_size=512, min_tiles=2,
                       max_tiles=10, min_image_tokens=64, max_image_tokens=256, use_thumbnail=True,
                       max_pixels_tolerance=2.0),
        tower=frozenset((*(f'self_attn.{name}_proj' for name in ('q', 'k', 'v', 'out')), 'mlp.fc1',
                         'mlp.fc2')),
        chat='<|startoftext|><|im_start|>user\n<image>{question}<|im_end|>\n'
             '<|im_start|>assistant\n',
        ends=('<|im_end|>', ), vision_tokens=('<image>', ), estimated=False,
        linears=2 + 4 + 2 * 3))  # of a convolution, attention, two MLPs
"""`model_type` -> facts."""
