# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Runs open_clip's text towers without positions that change nothing."""

from __future__ import annotations

from typing import Any

import torch
from open_clip import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import normalize

from mmdpad.models.windows import Windows

from .blocks import are_plain, run_block


def encode_text(clip: Any, tokens: Tensor) -> Tensor:
    """Run ``clip.encode_text`` without the padding after a text.

    In a causal tower, tokens after the end token do not affect it. On a CPU, where every token
    costs time, each text is cut after its end token; on other devices, which are faster with one
    call for all texts, the batch is cut after its last end token. Other towers get the tokens
    unchanged.

    Args:
        clip: A model of open_clip.
        tokens: (N, L) long, N > 0.

    Returns:
        (N, D) unit vectors in the model's type.
    """
    tower = clip.text if isinstance(clip, CustomTextCLIP) else clip
    if not _is_cuttable(tower):
        return clip.encode_text(tokens, normalize=True)
    lengths = tokens.argmax(dim=1) + 1
    if tokens.device.type == 'cpu' and are_plain(tower.transformer.resblocks):
        return _encode_each(tower, tokens, lengths)
    length = int(lengths.max())
    parts = dict(positional_embedding=tower.positional_embedding[:length],
                 attn_mask=tower.attn_mask[:length, :length])
    prefix = '' if tower is clip else 'text.'
    return functional_call(clip, {prefix + name: part for name, part in parts.items()},
                           kwargs=dict(text=tokens[:, :length]))[1]


def _encode_each(tower: Any, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Encode texts (N, L) of ``lengths`` (N,) tokens as unit vectors (N, D)."""
    lengths, order = lengths.sort()
    windows = Windows(lengths.tolist(), tokens.device)
    rows, places = (torch.arange(tokens.shape[1]) < lengths[:, None]).nonzero(as_tuple=True)
    kind = tower.transformer.get_cast_dtype()
    states = (tower.token_embedding(tokens[order][rows, places]).to(kind)
              + tower.positional_embedding[places].to(kind))
    *blocks, last = tower.transformer.resblocks
    for block in blocks:
        states = run_block(block, states, windows, causal=True)
    # Only the end tokens' states are used.
    states = tower.ln_final(run_block(last, states, windows, causal=True,
                                      kept=lengths.cumsum(0) - 1))
    project = tower.text_projection
    if project is not None:
        states = project(states) if isinstance(project, nn.Linear) else states @ project
    return normalize(states, dim=-1)[order.argsort()]


def _is_cuttable(tower: nn.Module) -> bool:
    """Whether the tower is causal and takes its result from the largest token, the end token."""
    if isinstance(tower, CLIP):
        pool = tower.text_pool_type
    elif isinstance(tower, TextTransformer) and tower.cls_emb is None:
        pool = tower.pool_type
    else:
        return False
    return pool == 'argmax' and tower.attn_mask is not None
