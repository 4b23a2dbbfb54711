# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Runs the vision towers of Qwen-VL and GLM-V in transformers in fewer and larger operations, with
the same results.

- All windows of one length attend in one call, and so do whole images of one size. transformers
  makes one call per window and layer: thousands for an image of 840 x 840 pixels.
- Queries and keys are rotated in three operations instead of ten.
- Patches are embedded, and in GLM-V merged, by a matrix product. For a convolution, each patch is
  an image of its own.
- An RMS norm is one operation instead of six.

The modules' classes are replaced by subclasses with another ``forward``; weights and their names
stay as they are. Towers built from other classes are left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.models.glm4v.modeling_glm4v import Glm4vRMSNorm, Glm4vVisionAttention
from transformers.models.glm4v_moe.modeling_glm4v_moe import (
    Glm4vMoeRMSNorm,
    Glm4vMoeVisionAttention,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLRMSNorm,
    Qwen2_5_VLVisionAttention,
)
from transformers.models.qwen2_vl.modeling_qwen2_vl import VisionAttention
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5VisionAttention
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeVisionAttention
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionAttention
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeVisionAttention
from transformers.vision_utils import get_vision_window_index

from mmdpad.models.windows import Windows

_WINDOWS = WeakTensorKeyDictionary()
"""By their ends, a tensor that the layers of a pass share."""


def find_windows(ends: Tensor) -> Windows:
    """Group windows that end at ``ends`` (0 and windows, long or int); the same tensor again costs
    nothing."""
    windows = _WINDOWS.get(ends)
    if windows is None:
        windows = _WINDOWS[ends] = Windows(ends.diff().tolist(), ends.device)
    return windows


class Rotation(torch.autograd.Function):
    """Queries, keys and values (L, 3, H, d) -> three (L, H, d), the first two rotated by the angles
    with cosines and sines (L, 1, 1, d)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        value = qkv[:, 2]
        if ctx.needs_input_grad[0]:  # a copy, so that the whole need not be kept for it
            value = value.contiguous()
        return *_rotate(qkv[:, :2], cos, sin).unbind(1), value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = (x[:, 0] for x in ctx.saved_tensors)
        query, key, value = gradients
        return torch.stack([_rotate(query, cos, -sin), _rotate(key, cos, -sin), value],
                           dim=1), None, None


def _rotate(tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair of channels i and i + d / 2 of (..., d), at least in float32."""
    half = tokens.shape[-1] // 2
    wide = tokens.to(torch.promote_types(tokens.dtype, cos.dtype))
    rotated = wide * cos
    rotated[..., :half].addcmul_(wide[..., half:], sin[..., :half], value=-1)
    rotated[..., half:].addcmul_(wide[..., :half], sin[..., half:])
    return rotated.to(tokens.dtype)


def attend_in_windows(self: Any, hidden_states: Tensor, cu_seqlens: Tensor,
                      position_embeddings: tuple[Tensor, Tensor], **kwargs: Any) -> Tensor:
    """The ``forward`` of a tower's attention: (L, D) with windows that end at ``cu_seqlens``
    (windows + 1,) and (L, d) cosines and sines -> (L, D)."""
    qkv = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1))
    cos, sin = (x[:, None, None] for x in position_embeddings)
    query, key, value = Rotation.apply(qkv, cos, sin)
    output = find_windows(cu_seqlens).attend(query, key, value, self.scaling)
    return self.proj(output.flatten(1))


def multiply_patches(self: Any, patches: Tensor) -> Tensor:
    """The ``forward`` of a convolution over patches that are as large as its kernel, as a matrix
    product: (N, C, ...) -> (N, D, 1, ...)."""
    rows = linear(patches.flatten(1), self.weight.flatten(1), self.bias)
    return rows.reshape(*rows.shape, *(1 for _ in patches.shape[2:]))


def normalize_at_once(self: Any, hidden_states: Tensor) -> Tensor:
    """The ``forward`` of an RMS norm in one operation: (..., D) -> (..., D)."""
    if hidden_states.dtype != self.weight.dtype:  # under autocast
        return super(type(self), self).forward(hidden_states)
    return rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)


_FORWARDS: dict[Callable[..., Tensor], tuple[type[nn.Module], ...]] = {
    attend_in_windows: (
        VisionAttention, Qwen2_5_VLVisionAttention, Qwen3VLVisionAttention,
        Qwen3VLMoeVisionAttention, Qwen3_5VisionAttention, Qwen3_5MoeVisionAttention,
        Glm4vVisionAttention, Glm4vMoeVisionAttention),
    multiply_patches: (nn.Conv3d, nn.Conv2d),
    normalize_at_once: (Qwen2_5_VLRMSNorm, Glm4vRMSNorm, Glm4vMoeRMSNorm)}
_FASTER: dict[type, type[nn.Module]] = {
    kind: type(f'Faster{kind.__name__}', (kind, ), dict(forward=forward, __module__=__name__))
    for forward, kinds in _FORWARDS.items() for kind in kinds}
"""By the class that each one replaces."""
globals().update((kind.__name__, kind) for kind in _FASTER.values())  # so they can be pickled


def speed_up(tower: nn.Module) -> None:
    """Replace the classes of a tower's modules by those of this file.

    Args:
        tower: A vision tower of transformers. If its attention is not known, nothing changes.
    """
    modules = [module for module in tower.modules() if type(module) in _FASTER]
    if any(hasattr(module, 'qkv') for module in modules):
        for module in modules:
            module.__class__ = _FASTER[type(module)]


def sorted_windows(tower: nn.Module, grids: Tensor) -> dict[str, Tensor]:
    """Arguments of a tower's forward that sort the windows of each image by length, so that those
    of one length follow each other.

    Args:
        tower: Only Qwen2.5-VL's has windows.
        grids: (B, 3) long, frames, rows and columns of patches of each image.

    Returns:
        ``window_index`` and ``cu_window_seqlens`` of transformers; empty for a tower without
        windows.
    """
    if not isinstance(tower, Qwen2_5_VisionTransformerPretrainedModel):
        return {}
    config, merged = tower.config, tower.spatial_merge_unit
    windows, lengths, start = [], [0], 0
    for grid in grids.cpu():
        index, ends = get_vision_window_index(grid[None], config.spatial_merge_size,
                                              config.window_size, cast(int, config.patch_size))
        own = sorted(index.split((ends.diff() // merged).tolist()), key=len)
        windows += [window + start for window in own]
        lengths += [merged * len(window) for window in own]
        start += len(index)
    ends = torch.tensor(lengths).cumsum(0, dtype=torch.int32)
    return dict(window_index=torch.cat(windows).to(grids.device),
                cu_window_seqlens=ends.to(grids.device))
