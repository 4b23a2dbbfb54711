# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What is known of each policy family, once for all tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """Of a family, as published.

    Attributes:
        name, coordinates: Of :class:`mmdpad.models.heads.families.PolicyFamily`.
        patch: Side of a patch in pixels.
        fewest, most: Pixels of an image that the processor keeps as a whole; 0 if it only makes
            tiles.
        side, tokens: Side of the model image in the configs, and its image tokens.
        tower: Linear layers in a block of the vision tower, by name.
        flat: Whether config.json was first published without `text_config`.
        chat: What the chat template writes of a question with an image.
        ends: End tokens in generation_config.json.
        vision_tokens: Tokens that a response may not contain.
        linears: Linear layers in the language model of a tiny folder, by which LoRA counts.
        tied: Whether the output head of the tiny folder is the embedding.
        limit: `max_prompt_tokens` in the configs.
        tile: Side of a tile in pixels; 0 where images have no tiles but a grid of patches.
        samples: Whether generation_config.json asks for sampling.
    """

    name: str
    coordinates: str
    patch: int
    fewest: int
    most: int
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
    limit: int = 1300
    tile: int = 0
    samples: bool = True


def _tower(*mlp: str) -> frozenset[str]:
    return frozenset(('attn.qkv', 'attn.proj', *(f'mlp.{name}' for name in mlp)))


_SYSTEM = '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n'
_QWEN = ('<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{question}<|im_end|>\n'
         '<|im_start|>assistant\n')
_QWEN2 = dict(patch=14, fewest=3136, most=12845056, side=840, tokens=900, flat=True,
              chat=_SYSTEM + _QWEN)
_QWEN3 = dict(patch=16, fewest=65536, most=16777216, side=832, tokens=676, flat=False,
              tower=_tower('linear_fc1', 'linear_fc2'), chat=_QWEN)
# The small sizes do not think unless they are asked to.
_QWEN3_5 = dict(_QWEN3, chat=_QWEN + '<think>\n\n</think>\n\n')
_GLM = dict(
    patch=14, fewest=12544, most=11760000, side=840, tokens=900, flat=False, tied=False,
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
    glm4v_moe=Facts('GLM-4.5V', 'relative_1000', ends=_GLM_ENDS, chat=_GLM_CHAT, **_GLM),
    internvl=Facts(
        'InternVL', 'relative_1000', patch=14, fewest=0, most=0, side=896, tokens=5 * 256, tile=448,
        limit=1700,
        tower=frozenset(('attention.q_proj', 'attention.k_proj', 'attention.v_proj',
                         'attention.projection_layer', 'mlp.fc1', 'mlp.fc2')),
        flat=False, ends=('<|im_end|>', ), vision_tokens=('<IMG_CONTEXT>', ), tied=False,
        chat='<|im_start|>user\n<IMG_CONTEXT>\n{question}<|im_end|>\n<|im_start|>assistant\n',
        samples=False),
    # A tile and the thumbnail have 256 tokens each; a convolution, attention and two MLPs.
    lfm2_vl=Facts(
        'LFM2-VL', 'relative_1', patch=16, fewest=65536, most=262144, side=1024, tokens=5 * 256,
        tile=512, limit=1700, tower=frozenset((
            *(f'self_attn.{name}_proj' for name in ('q', 'k', 'v', 'out')), 'mlp.fc1', 'mlp.fc2')),
        flat=False, ends=('<|im_end|>', ), vision_tokens=('<image>', ), linears=2 + 4 + 2 * 3,
        chat='<|startoftext|><|im_start|>user\n<image>{question}<|im_end|>\n'
             '<|im_start|>assistant\n',
        samples=False))
"""`model_type` -> facts."""
