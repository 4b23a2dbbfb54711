# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Recomputes layers in the backward pass, as far as a memory budget demands."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from mmdpad.models.cost.budget import Spending, spend
from mmdpad.models.cost.fake_policy import ImageInputs
from mmdpad.models.cost.memory import standing
from mmdpad.models.cost.shapes import PolicyShape
from mmdpad.models.cost.workload import Kept, Setup, Workload
from mmdpad.models.free_memory import free_memory
from mmdpad.structures import response_lengths
from mmdpad.utils.number_checks import check_number

from .encoded_prompt import EncodedPrompt, Replies
from .families import family_of
from .kept_products import keep_products

GB = 1e9
# Share of the free memory that 'auto' uses: the estimate may be 15 % too low, and allocators
# fragment.
SHARE = 0.85


def check_memory_budget(budget: float | str | None) -> None:
    """Raise ValueError if a value of ``memory_budget`` is not a positive number, 'auto' or None."""
    if budget is None or budget == 'auto':
        return
    check_number('memory_budget', budget, "a positive number of GB, 'auto' or None",
                 lambda size: 0 < size < math.inf)


class MemoryBudget:
    """Chooses for each pass which layers of a policy are recomputed.

    Args:
        model: The policy's model.
        budget: GB (10^9 bytes) for activations, logits and gradients of an update in each process;
            'auto' for :data:`SHARE` of what the device has left at the first one, without Adam's
            state if that comes later.
        lora: As in :class:`.VLMReasoningHead`.
        quantized: Whether weights below the adapter are quantized.
        freeze_vision: As in :class:`.VLMReasoningHead`.
        attention: Name of the text part's attention implementation.

    Attributes:
        bytes: The budget in bytes; None before the first pass with 'auto'.
        kept: What the last pass keeps; None before the first one.
        has_state: Whether the optimizer's state was in memory before the first pass (a resumed
            run).
    """

    def __init__(self, model: PreTrainedModel, budget: float | str, lora: dict | None,
                 quantized: bool, freeze_vision: bool, attention: str) -> None:
        check_memory_budget(budget)
        self.shape = PolicyShape.of(model.config, lora)
        self.bytes = None if budget == 'auto' else float(budget) * GB
        self.kept: Kept | None = None
        self.has_state = False
        self._exceeded = False
        self.setup = Setup(
            weight_bytes=model.dtype.itemsize,
            lora_rank=(lora or {}).get('r', 8) if lora else 0, quantized_bytes=float(quantized),
            freeze_vision=freeze_vision, attention='eager' if attention == 'eager' else 'flash',
            rollout='none')

    def apply(self, model: PreTrainedModel, prompts: Sequence[EncodedPrompt], mask: Tensor,
              entropy: str | None, shares_prompts: bool, replies: Replies = ()) -> None:
        """Set which layers of the next forward pass are recomputed in its backward pass, for B
        prompts and responses of a mask (N, R) with these replies."""
        device = mask.device
        setup = replace(
            self.setup, entropy=entropy, on_cpu=device.type == 'cpu', groups=len(prompts),
            amp=torch.is_autocast_enabled(device.type), shards=_shards(model),
            accumulates=any(p.grad is not None for p in model.parameters()))
        work = _workload(prompts, mask, shares_prompts, replies)
        if self.bytes is None:
            state = 0.0 if self.has_state else standing(self.shape, setup)['optimizer state']
            self.bytes = SHARE * max(0.0, free_memory(device) - state / setup.shards)
        spending = spend(self.shape, setup, work, self.bytes)
        if self.kept is None or spending.exceeds > self._exceeded:
            print_log(describe(self.shape, setup, spending), logger='current',
                      level=logging.WARNING if spending.exceeds else logging.INFO)
        self.kept, self._exceeded = spending.kept, self._exceeded or spending.exceeds
        keep(model, spending.kept, self.setup.lora_rank)


def _shards(model: PreTrainedModel) -> int:
    """How many processes share a model's weights; a pass gathers only some of them."""
    return next((p.device_mesh.size() for p in model.parameters() if isinstance(p, DTensor)), 1)


def describe(shape: PolicyShape, setup: Setup, spending: Spending) -> str:
    """Say what is kept within a budget, and what that takes."""
    kept = spending.kept
    over = '' if not spending.exceeds else (
        ', which is more than the budget although everything is recomputed; lower '
        '`train_cfg.tokens_per_micro_batch`')
    vision = '' if setup.vision_is_fixed else (
        f', and {kept.vision} of {shape.blocks} vision blocks')
    return (f'memory_budget: of {shape.text.layers} layers, {kept.text} keep all activations and '
            f'{kept.products - kept.text} the outputs of matrix products{vision}; an update takes '
            f'about {spending.peak / GB:.2f} of {spending.budget / GB:.2f} GB{over}')


def _workload(prompts: Sequence[EncodedPrompt], mask: Tensor, shares_prompts: bool,
              replies: Replies = ()) -> Workload:
    """The workload of a pass, with the mean lengths of its prompts and responses, or, where prompts
    are repeated, with those that all are padded to."""
    seen = [reply for own in replies for reply in own]
    image, *reply_image = (
        ImageInputs.of(max(some, key=lambda one: one.pixel_values.numel()))
        for some in (prompts, seen) if some)
    lengths, sizes = [len(prompt) for prompt in prompts], response_lengths(mask).tolist()
    if shares_prompts:
        prompt, response = (math.ceil(sum(x) / len(x)) for x in (lengths, sizes))
    else:
        prompt, response = max(lengths), mask.shape[1]
    replied = math.floor((sum(sizes) - int(mask.sum())) / len(mask))
    return Workload(len(prompts), len(mask) // len(prompts), prompt, response - replied,
                    image, shares_prompts, longest=max(sizes),
                    reply_tokens=replied, reply_images=len(seen) / len(mask),
                    reply_image=reply_image[0] if seen else None)


def keep(model: Any, kept: Kept, lora_rank: int = 0) -> None:
    """Set which layers of a policy's model are recomputed in the backward pass: the first ones
    entirely, then those that keep the outputs of matrix products; the last ones are not.

    Args:
        model: The model.
        kept: How many there are of each.
        lora_rank: Rank of an adapter; products over so few numbers are repeated.
    """
    family = family_of(model)
    layers = family.language(model).layers
    options = keep_products(lora_rank)
    for index, layer in enumerate(layers):
        after = len(layers) - index
        _recompute(layer, after > kept.text,
                   options if after <= kept.products else {})
    blocks = family.blocks(model)
    for index, block in enumerate(blocks):
        _recompute(block, len(blocks) - index > kept.vision, {})


def _recompute(layer: Any, enabled: bool, options: dict[str, Any]) -> None:
    layer.gradient_checkpointing = enabled
    layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, **options)
