# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Runs the blocks of open_clip's transformers on sequences of any lengths, without padding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn.functional import linear

from mmdpad.models.windows import Windows


def are_plain(blocks: Iterable[nn.Module]) -> bool:
    """Whether blocks are those of open_clip's usual towers, as :func:`run_block` knows them."""
    return all(type(block) is ResidualAttentionBlock and type(block.attn) is nn.MultiheadAttention
               and block.attn.in_proj_weight is not None for block in blocks)


def run_block(block: Any, tokens: Tensor, windows: Windows, causal: bool,
              kept: Tensor | None = None) -> Tensor:
    """Run a block on the tokens of several sequences at once.

    Args:
        block: See :func:`are_plain`.
        tokens: (T, D), one sequence after the other.
        windows: The sequences.
        causal: Whether a token attends only to itself and to earlier ones.
        kept: (K,) long, the tokens whose outputs are needed; None for all.

    Returns:
        (K, D) or (T, D).
    """
    attention = block.attn
    states = linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = states.unflatten(-1, (3, attention.num_heads, -1)).unbind(1)
    output = windows.attend(query, key, value, causal=causal).flatten(1)
    if kept is not None:
        tokens, output = tokens[kept], output[kept]
    tokens = tokens + block.ls_1(attention.out_proj(output))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
