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
        fewest, most: Pixels of an image that the processor keeps.
        side, tokens: Side of the model image in the configs, and its image tokens.
        tower: Linear layers in a block of the vision tower, by name.
        system: Whether the chat template adds a system turn.
        flat: Whether config.json was first published without `text_config`.
        linears: Linear layers in the language model of a tiny folder, by which LoRA counts.
        opening: What the chat template opens for a response.
        estimated: Whether estimates know its layers.
    """

    name: str
    coordinates: str
    patch: int
    fewest: int
    most: int
    side: int
    tokens: int
    tower: frozenset[str]
    system: bool
    flat: bool
    linears: int = 2 * 7  # q, k, v, o, gate, up, down of two layers
    opening: str = ''
    estimated: bool = True


def _tower(*mlp: str) -> frozenset[str]:
    return frozenset(('attn.qkv', 'attn.proj', *(f'mlp.{name}' for name in mlp)))


_QWEN2 = dict(patch=14, fewest=3136, most=12845056, side=840, tokens=900, system=True, flat=True)
_QWEN3 = dict(patch=16, fewest=65536, most=16777216, side=832, tokens=676, system=False, flat=False,
              tower=_tower('linear_fc1', 'linear_fc2'))
# The small sizes do not think unless they are asked to.
_QWEN3_5 = dict(opening='<think>\n\n</think>\n\n', estimated=False)
FACTS = dict(
    qwen2_vl=Facts('Qwen2-VL', 'relative_1000', tower=_tower('fc1', 'fc2'), **_QWEN2),
    qwen2_5_vl=Facts('Qwen2.5-VL', 'pixels', tower=_tower('gate_proj', 'up_proj', 'down_proj'),
                     **_QWEN2),
    qwen3_vl=Facts('Qwen3-VL', 'relative_1000', **_QWEN3),
    qwen3_vl_moe=Facts('Qwen3-VL-MoE', 'relative_1000', **_QWEN3, linears=2 * 4),
    # Gated DeltaNet has five linear layers, attention four, an MLP three and a shared expert four.
    qwen3_5=Facts('Qwen3.5', 'relative_1000', **_QWEN3, **_QWEN3_5, linears=5 + 4 + 2 * 3),
    qwen3_5_moe=Facts('Qwen3.5-MoE', 'relative_1000', **_QWEN3, **_QWEN3_5,
                      linears=5 + 4 + 2 * 4))
"""`model_type` -> facts."""
