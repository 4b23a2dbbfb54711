# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Runs open_clip's text towers without positions that change nothing."""

from __future__ import annotations

from typing import Any

from open_clip import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.func import functional_call


def encode_text(clip: Any, tokens: Tensor) -> Tensor:
    """Run ``clip.encode_text`` without the padding that no text of the batch needs.

    In a causal tower, tokens after the end token do not affect it, so the batch is cut after its
    last end token. Other towers get the tokens unchanged.

    Args:
        clip: A model of open_clip.
        tokens: (N, L) long, N > 0.

    Returns:
        (N, D) unit vectors in the model's type.
    """
    tower = clip.text if isinstance(clip, CustomTextCLIP) else clip
    if not _is_cuttable(tower):
        return clip.encode_text(tokens, normalize=True)
    length = int(tokens.argmax(dim=1).max()) + 1
    parts = dict(positional_embedding=tower.positional_embedding[:length],
                 attn_mask=tower.attn_mask[:length, :length])
    prefix = '' if tower is clip else 'text.'
    return functional_call(clip, {prefix + name: part for name, part in parts.items()},
                           kwargs=dict(text=tokens[:, :length]))[1]


def _is_cuttable(tower: nn.Module) -> bool:
    """Whether the tower is causal and takes its result from the largest token, the end token."""
    if isinstance(tower, CLIP):
        pool = tower.text_pool_type
    elif isinstance(tower, TextTransformer) and tower.cls_emb is None:
        pool = tower.pool_type
    else:
        return False
    return pool == 'argmax' and tower.attn_mask is not None
