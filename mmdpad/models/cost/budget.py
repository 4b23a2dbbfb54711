# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Which layers keep their activations, within a memory budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from .activations import product_bytes, text_bytes, tower_bytes
from .flops import block_flops, text_flops
from .memory import full_shard, peak, update_moments
from .shapes import PolicyShape
from .workload import Kept, Setup, Workload

# Operations in the time that it takes to repeat, from its inputs, a byte of what lies between
# matrix products: little, so the products are kept first.
PER_BYTE = 8


class Spending(NamedTuple):
    """What is kept of an update within a budget.

    Attributes:
        kept: The layers that keep activations.
        peak: Bytes that the update then holds, see :func:`update_peak`.
        budget: Bytes that it may hold.
    """

    kept: Kept
    peak: float
    budget: float

    @property
    def exceeds(self) -> bool:
        """Whether it holds more than it may, although everything is recomputed."""
        return self.peak > self.budget


def update_peak(shape: PolicyShape, setup: Setup, work: Workload) -> float:
    """Bytes that an update of ``work`` holds at its peak, besides what stays in memory. The pass
    of the reference, which comes first, does not depend on what is kept and is left out."""
    moments = update_moments(shape, replace(setup, reference=False), work)
    if setup.shards > 1:
        moments = full_shard(moments, setup.shards, shape, setup)
    return peak(moments)[1]


def spend(shape: PolicyShape, setup: Setup, work: Workload, budget: float) -> Spending:
    """Choose the layers that keep activations so that the most time is saved.

    What saves most time for its bytes comes first: outputs of matrix products in the language
    model's layers, or blocks of the vision tower; then the rest of these layers.

    Args:
        shape: The policy.
        setup: How it is trained; its ``checkpointing`` and ``kept`` do not matter.
        work: The prompts and responses of one pass.
        budget: Bytes for :func:`update_peak`. If it is exceeded with all layers recomputed,
            nothing is kept.
    """
    setup = replace(setup, checkpointing=True)
    layers = text_bytes(shape, setup, work).layers
    pairs = work.prefix_pairs + work.response_pairs
    gains = {
        'products': text_flops(shape, work.tokens, pairs)
        / max(1, sum(product_bytes(shape, setup, work)) - sum(layer.state for layer in layers)),
        'text': PER_BYTE,
    }
    counts = {'products': len(layers), 'text': len(layers)}
    if not setup.vision_is_fixed:
        blocks = tower_bytes(shape, setup, work, work.all_images).layers
        counts['vision'] = len(blocks)
        gains['vision'] = (block_flops(shape, work.all_images)
                           / max(1, sum(block.kept - block.state for block in blocks)))
    kept = Kept()
    for name in sorted(counts, key=gains.__getitem__, reverse=True):
        limit = kept.products if name == 'text' else counts[name]

        def fits(count: int, name: str = name, kept: Kept = kept) -> bool:
            plan = replace(setup, kept=replace(kept, **{name: count}))
            return update_peak(shape, plan, work) <= budget

        kept = replace(kept, **{name: _most(fits, limit)})
    plan = replace(setup, kept=kept)
    return Spending(kept, update_peak(shape, plan, work), budget)


def _most(fits: Callable[[int], bool], limit: int) -> int:
    """The largest count up to a limit that fits, or 0; a smaller one never takes more."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
