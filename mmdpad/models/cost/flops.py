# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Floating point operations of a training step: 2 per multiply-add, matrix products only.

The products of layers are counted in a pass of fake tensors: a linear map with W weights costs 2 W
per token, and so do the experts that a token uses. Attention costs 4 A per pair of query and key (A
is the width of a query; half is for the scores, half for the values). The backward pass of either
costs twice the forward pass, half of it for the gradient of the input and half for that of the
weights (cf. Kaplan et al., arXiv 2001.08361, section 2.1).
Attention is counted by its formula: a kernel that computes masked pairs, or recomputes scores in
the backward pass, does more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .fake_policy import ImageInputs
from .shapes import PolicyShape
from .workload import Setup, Workload

ROLLOUT = 'rollout', 'rollout, turns again'
"""Names of the passes of a rollout, :func:`rollout_flops` and :func:`repeated_flops`."""


def text_flops(shape: PolicyShape, linear_tokens: int, pairs: int) -> int:
    """One forward pass of the language model's layers."""
    text = shape.text
    return 2 * text.multiplied * linear_tokens + 4 * text.attended * pairs


def head_flops(shape: PolicyShape, positions: int) -> int:
    """One forward pass of the output head for a number of positions."""
    return 2 * shape.text.hidden * shape.text.vocabulary * positions


def image_flops(shape: PolicyShape, images: Mapping[ImageInputs, float]) -> int:
    """One forward pass of the vision tower for so many images of each kind."""
    return int(sum(count * shape.measurements.image_flops(image)[0]
                   for image, count in images.items()))


def block_flops(shape: PolicyShape, images: Mapping[ImageInputs, float]) -> int:
    """The part of its blocks, without patch embedding and merger."""
    return int(sum(count * shape.measurements.image_flops(image)[1]
                   for image, count in images.items()))


def adapter_flops(shape: PolicyShape, setup: Setup, work: Workload) -> int:
    """One forward pass of a low-rank adapter over all micro-batches."""
    if not setup.lora_rank:
        return 0
    adapter = shape.measurements.adapter(setup.lora_rank)
    passes = -(-work.prompts // setup.groups)
    return 2 * (adapter.per_token * work.tokens + adapter.per_pass * passes)


def forward_flops(shape: PolicyShape, work: Workload) -> dict[str, int]:
    """One forward pass of all prompts and responses, as in ``log_probs``."""
    return dict(text=text_flops(shape, work.tokens, work.prefix_pairs + work.response_pairs),
                head=head_flops(shape, work.generated),
                vision=image_flops(shape, work.all_images))


def update_flops(shape: PolicyShape, setup: Setup, work: Workload) -> dict[str, int]:
    """One forward pass, recomputation and backward pass of all prompts and responses. The pass of a
    vision tower that is not trained is not included."""
    forward = forward_flops(shape, work)
    pairs = text_flops(shape, 0, work.prefix_pairs + work.response_pairs)
    linear = forward['text'] - pairs
    adapter = adapter_flops(shape, setup, work)
    again = 1 - setup.kept.products / shape.text.layers if setup.checkpointing else 0
    blocks = 1 - setup.kept.vision / shape.blocks if setup.checkpointing else 0
    backward = 2 if not setup.lora_rank else 1  # frozen weights have no gradients
    text = int((1 + again + backward) * linear + (3 + again) * (pairs + adapter))
    passes = head_passes(shape, setup, work)
    vision = 0 if setup.vision_is_fixed else (
        3 * forward['vision'] + int(blocks * block_flops(shape, work.all_images)))
    return dict(text=text, head=(passes + backward) * forward['head'], vision=vision)


def head_passes(shape: PolicyShape, setup: Setup, work: Workload) -> int:
    """How often an update computes logits: twice if they are computed in chunks."""
    in_pass = setup.groups * work.group_size * work.response_tokens
    return 2 if in_pass * shape.text.vocabulary > setup.max_logits else 1


def rollout_flops(shape: PolicyShape, setup: Setup, work: Workload) -> dict[str, int]:
    """Prefill and decode; the output head runs on each token of a response."""
    work = replace(work, shared=setup.rollout == 'shared')
    forward = forward_flops(shape, work)
    return {**forward, 'text': forward['text'] + adapter_flops(shape, setup, work)}


def repeated_flops(shape: PolicyShape, setup: Setup, work: Workload) -> dict[str, int]:
    """What the later turns of conversations repeat in a rollout: the prefill of everything before
    the last reply, of which a group may share the first prompt."""
    text = vision = 0
    adapter = shape.measurements.adapter(setup.lora_rank) if setup.lora_rank else None
    shared, replies = setup.rollout == 'shared', work.turns - 1
    for before in range(1, work.turns):
        again = replace(
            work, shared=shared, images_once=shared,
            response_tokens=before * (work.response_tokens // work.turns),
            reply_tokens=(before - 1) * (work.reply_tokens // replies),
            reply_images=(before - 1) * work.reply_images / replies)
        text += text_flops(shape, again.tokens, again.prefix_pairs + again.response_pairs)
        text += 0 if adapter is None else 2 * (adapter.per_token * again.tokens + adapter.per_pass)
        vision += 0 if setup.rollout_encodes_once else image_flops(shape, again.all_images)
    return dict(text=text, head=0, vision=vision)


def step_flops(shape: PolicyShape, setup: Setup, work: Workload) -> dict[str, dict[str, int]]:
    """Operations of one training step by pass and part (text, head, vision).

    A vision tower that is not trained encodes an image once: in the rollout if that shares
    prompts, else in the first pass after it.
    """
    forward = forward_flops(shape, work)
    passes: dict[str, dict[str, int]] = {}
    encoded = False
    if setup.rollout != 'none':
        passes['rollout'] = rollout_flops(shape, setup, work)
        if work.turns > 1 and not setup.keeps_turns:
            passes[ROLLOUT[1]] = repeated_flops(shape, setup, work)
        encoded = setup.rollout_encodes_once
    if setup.kept_log_probs:
        passes['old log-probs'] = dict(
            text=forward['text'] + adapter_flops(shape, setup, work), head=forward['head'],
            vision=0 if encoded else forward['vision'])
        encoded = encoded or setup.vision_is_fixed
    update = update_flops(shape, setup, work)
    if setup.vision_is_fixed and not encoded:
        update['vision'] += forward['vision'] // setup.updates
    if setup.reference:
        passes['reference'] = {**forward, 'vision': 0 if setup.vision_is_fixed else
                               forward['vision']}
    passes['update'] = {part: setup.updates * value for part, value in update.items()}
    return passes
