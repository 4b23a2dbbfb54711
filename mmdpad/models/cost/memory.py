# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Accelerator memory of a training step, in bytes, moment by moment.

Weights, optimizer state and reference are in memory all the time. Everything else peaks at one of
a few moments; the step needs the largest of these, not their sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from .activations import (
    around_text,
    feature_bytes,
    logit_bytes,
    product_bytes,
    text_bytes,
    tower_bytes,
)
from .fake_policy import ImageInputs
from .measured import LayerBytes
from .shapes import PolicyShape
from .workload import Kept, Setup, Workload

Bytes = dict[str, float]


def step_memory(shape: PolicyShape, setup: Setup, work: Workload,
                frozen: Mapping[str, float] | None = None, gpus: int = 1) -> dict[str, Bytes]:
    """Return moment -> component -> bytes on each GPU, with data parallel training.

    Args:
        shape: The policy.
        setup: How it is trained.
        work: The step's prompts and responses on one GPU.
        frozen: Name -> bytes of other models.
        gpus: Number of GPUs. With several, the buckets that are exchanged hold a second copy of the
            gradients, unless ``setup.bucket_views``.
    """
    always = {**standing(shape, setup), **(frozen or {})}
    trained = trained_weights(shape, setup)
    gradients = gradient_bytes(shape, setup)
    buckets = {'gradient buckets': gradients} if gpus > 1 and not setup.bucket_views else {}
    micro = replace(work, prompts=min(setup.groups, work.prompts))
    moments = {name: {**always, **buckets, **parts}
               for name, parts in update_moments(shape, setup, micro).items()}
    moments['optimizer step'] = {
        **always, **buckets, 'gradients': gradients,
        'optimizer, temporary': setup.step * setup.trained_bytes * trained}
    if setup.rollout != 'none':
        moments['rollout'] = {**always, **buckets, **rollout_memory(shape, setup, work)}
    return moments


def peak(moments: Mapping[str, Mapping[str, float]]) -> tuple[str, float]:
    """Return the moment that needs the most memory, and its bytes."""
    totals = {name: sum(parts.values()) for name, parts in moments.items()}
    moment = max(totals, key=totals.__getitem__)
    return moment, totals[moment]


def full_shard(moments: Mapping[str, Mapping[str, float]], gpus: int, shape: PolicyShape,
               setup: Setup) -> dict[str, Bytes]:
    """Return the moments of :func:`step_memory` under ``FSDP2Strategy``, whose ``param_dtype`` is
    the dtype of the passes: everything that scales with the number of weights is divided by
    ``gpus``; what is gathered at a time is added."""
    shared = {'weights', 'adapter', 'optimizer state', 'gradients', 'reference',
              'optimizer, temporary'}
    dropped = {'gradient buckets', 'bfloat16 copies of weights'}
    gathered = _gathered(shape, setup)
    return {name: {part: value / gpus if part in shared else value
                   for part, value in parts.items() if part not in dropped}
            | {part: gathered[part] for part in _GATHERED_IN.get(name.split(',')[0], ())}
            for name, parts in moments.items()}


# Moment, up to its comma -> entries of :func:`_gathered`.
_GATHERED_IN = {'forward': ('gathered layers', 'gathered ends'),
                'reference': ('gathered layers', 'gathered ends'),
                'backward': ('gathered layers', 'gathered ends', 'gathered gradients'),
                'rollout': ('gathered policy', 'gathered ends')}


def _gathered(shape: PolicyShape, setup: Setup) -> Bytes:
    """Bytes that ``FSDP2Strategy`` gathers: in a pass, a layer and the next one, and embeddings,
    norms and output head (of the reference, too); in a rollout, the policy."""
    layer = shape.text.matrices // shape.text.layers
    ends = shape.parameters - shape.vision_parameters - shape.text.matrices
    models = 1 + (setup.reference and not setup.lora_rank)
    return {'gathered layers': setup.compute_bytes * 2 * layer,
            'gathered ends': setup.compute_bytes * models * ends,
            'gathered gradients': 0 if setup.lora_rank else setup.compute_bytes * (layer + ends),
            'gathered policy': setup.compute_bytes * (shape.parameters - ends)}


def trained_weights(shape: PolicyShape, setup: Setup) -> int:
    """Number of weights that are trained."""
    if setup.lora_rank:
        return shape.adapter_weights(setup.lora_rank)
    return shape.parameters - shape.vision_parameters * setup.freeze_vision


def gradient_bytes(shape: PolicyShape, setup: Setup) -> int:
    """Bytes of all gradients; each has the type of its weight, or float32 with ``offload``."""
    return (4 if setup.offload else setup.trained_bytes) * trained_weights(shape, setup)


def standing(shape: PolicyShape, setup: Setup) -> Bytes:
    """What stays in memory after the first step, without gradients.

    The reference shares a vision tower that is not trained. With an adapter, the reference is the
    policy with its adapter disabled.
    """
    quantized = shape.text.linear if setup.quantized_bytes else 0
    parts: Bytes = {'weights': (shape.parameters - quantized) * setup.weight_bytes
                    + quantized * setup.quantized_bytes}
    if quantized:
        parts['weight in use, not quantized'] = shape.text.largest * setup.compute_bytes
    if setup.lora_rank:
        parts['adapter'] = setup.trained_bytes * trained_weights(shape, setup)
    elif setup.reference:
        parts['reference'] = setup.weight_bytes * (
            shape.parameters - shape.vision_parameters * setup.freeze_vision)
    parts['optimizer state'] = (
        setup.state * setup.trained_bytes * trained_weights(shape, setup))
    return parts


def _casts(setup: Setup) -> int:
    """Bytes of a weight's bfloat16 copy; 0 if there is none."""
    return 2 if setup.amp and setup.weight_bytes == 4 else 0


def cast_bytes(shape: PolicyShape, setup: Setup) -> int:
    """Bytes of the bfloat16 copies of linear maps' float32 weights at the end of a forward pass.

    Autocast keeps the copies of trained weights until the pass ends. Autograd keeps those of frozen
    weights below an adapter, unless layers are recomputed.
    """
    if setup.lora_rank:
        below = 0
        if not setup.checkpointing:
            below = shape.castable - shape.vision_castable
        elif setup.kept.text:
            below = shape.text.linear * setup.kept.text // shape.text.layers
        below = max(0, below - shape.text.linear) if setup.quantized_bytes else below
        return 2 * setup.amp * trained_weights(shape, setup) + _casts(setup) * below
    return _casts(setup) * (shape.castable - shape.vision_castable * setup.freeze_vision)


def kept_layers(shape: PolicyShape, setup: Setup) -> Kept:
    """The layers that keep activations: those of ``setup.kept``, or all without checkpointing."""
    if setup.checkpointing:
        return setup.kept
    return Kept(shape.text.layers, shape.text.layers, shape.blocks)


def update_moments(shape: PolicyShape, setup: Setup, work: Workload) -> dict[str, Bytes]:
    """What an update of the groups of ``work`` holds in addition to :func:`standing`.

    If one pass makes an optimizer step, gradients appear one by one during the backward pass while
    activations are freed; each is largest at one end of the pass.
    """
    text = shape.text
    layers = text_bytes(shape, setup, work)
    kept = kept_layers(shape, setup)
    below = layers.ends + around_text(shape, setup, work)
    if not setup.vision_is_fixed:
        tower = tower_bytes(shape, setup, work, work.all_images)
        blocks = _holdings(tower.layers, kept.vision)
        below += tower.ends + sum(blocks)
    own = _holdings(layers.layers, kept.text)
    if kept.products > kept.text:
        some = slice(text.layers - kept.products, text.layers - kept.text)
        own[some] = product_bytes(shape, setup, work)[some]
    logits = logit_bytes(shape, setup, work)

    gradients = gradient_bytes(shape, setup)
    before = gradients if setup.accumulates else 0
    of_vision = 0 if setup.vision_is_fixed else setup.weight_bytes * shape.vision_parameters
    of_text = gradients - of_vision * (not setup.accumulates)
    head = 0 if setup.lora_rank else setup.weight_bytes * text.hidden * text.vocabulary
    copies = cast_bytes(shape, setup)
    # Recomputed layers drop their copies after the first forward pass.
    remaining = copies if kept.text == text.layers else _casts(setup) * (
        text.linear * (kept.text + 1) // text.layers + head // 4)

    def moment(gradients: float, copies: int, activations: int, logits: int = 0) -> Bytes:
        return {'gradients': gradients, 'bfloat16 copies of weights': copies,
                'activations': activations, 'logits': logits}

    moments = {
        'forward': moment(before, copies, below + sum(own), logits.forward),
        # With logits in chunks, the gradient of an earlier chunk is already there.
        'backward, logits': moment(before + head * (not logits.kept), remaining,
                                   below + sum(own), logits.backward),
        'backward, end': moment(gradients + head * (setup.accumulates or shape.tied), 0, 0),
    }
    moments['backward, layers'] = _largest([
        moment(done, remaining, below + peak) for done, peak in zip(
            _growing(max(before, head), of_text, text.layers),
            _backward_peaks(layers.layers, own), strict=True)])
    if setup.reference:
        # Its weights have no gradient, so autocast keeps only the copy in use.
        peak = forward_peak(shape, setup, work, {} if setup.vision_is_fixed else work.all_images)
        in_use = _casts(setup) * text.hidden * text.vocabulary
        moments['reference'] = moment(before, copies + in_use, peak)
    if not setup.vision_is_fixed:
        # The gradients of all blocks come after that of the merger.
        merged = gradients - setup.weight_bytes * shape.block_parameters * (not setup.accumulates)
        moments['backward, vision'] = _largest([
            moment(done, remaining, tower.ends + peak) for done, peak in zip(
                _growing(merged, gradients, shape.blocks),
                _backward_peaks(tower.layers, blocks), strict=True)])
    return moments


def _holdings(layers: Sequence[LayerBytes], kept: int) -> list[int]:
    """What each layer holds after the forward pass if the last ``kept`` keep everything."""
    return [layer.state if index < len(layers) - kept else layer.kept
            for index, layer in enumerate(layers)]


def _growing(start: float, end: float, layers: int) -> list[float]:
    """Bytes of gradients as the backward pass reaches each layer, the last one first."""
    return [start + (end - start) * above / layers for above in reversed(range(layers))]


def _largest(moments: Sequence[Bytes]) -> Bytes:
    return max(moments, key=lambda parts: sum(parts.values()))


def _backward_peaks(layers: Sequence[LayerBytes], own: Sequence[int]) -> list[int]:
    """What the layers hold together at the peak of the backward pass of each, which repeats what it
    did not keep and comes after those above it."""
    below = accumulate(own, initial=0)
    return [held + layer.backward_peak for held, layer in zip(below, layers, strict=False)]


def forward_peak(shape: PolicyShape, setup: Setup, work: Workload,
                 images: Mapping[ImageInputs, float]) -> int:
    """Peak of a forward pass without gradients: the language model's, with the pixels of so many
    ``images`` of each kind in float32, or the vision tower's."""
    pixels = sum(count * image.numbers for image, count in images.items())
    return max(text_bytes(shape, setup, work).forward + int(4 * pixels),
               tower_bytes(shape, setup, work, images).forward)


def rollout_memory(shape: PolicyShape, setup: Setup, work: Workload) -> Bytes:
    """Peak of a rollout of all prompts: in the prefill, or at the end of decoding. Of conversations
    it is in the first turn or in the last one, in which each has keys and values of its own; its
    prefill counts as if each also ran from the first token.

    With float32 weights under autocast, keys stay float32, since positions are added in float32;
    values are bfloat16. Sampling needs float32 logits and three float64 tensors of the same size.
    """
    work = replace(work, shared=setup.rollout == 'shared')
    first = work.turn(1)
    features = setup.rollout_encodes_once * feature_bytes(shape, setup, first.all_images)
    moments = _turn_moments(shape, setup, first, first.all_images, features)
    if work.turns > 1 and not setup.keeps_turns:
        last = work.turn(work.turns)
        images = replace(work, images_once=work.shared).all_images
        if setup.rollout_encodes_once:  # in earlier turns, all but the last replies
            images = {image: count / (work.turns - 1)
                      for image, count in work.all_reply_images.items()}
            features += feature_bytes(shape, setup, work.all_reply_images)
        moments += _turn_moments(shape, setup, last, images, features)
    return {'bfloat16 copies of weights': cast_bytes(shape, setup), **_largest(moments)}


def _turn_moments(shape: PolicyShape, setup: Setup, work: Workload,
                  images: Mapping[ImageInputs, float], features: int) -> list[Bytes]:
    """The start and the end of a rollout that encodes these images and holds these bytes of
    features."""
    text = shape.text
    cache = text.cached * (setup.weight_bytes + setup.compute_bytes) // 2
    states = 4 * text.state
    prefill = replace(work, response_tokens=0)
    logits = work.responses * text.vocabulary * (4 + 3 * 8)
    always: Bytes = {'image features': features}
    at_start: Bytes = {'key-value cache': cache * prefill.tokens,
                       'recurrent states': states * prefill.prefixes,
                       'prefill': forward_peak(shape, setup, prefill, images)}
    at_end: Bytes = {'key-value cache': cache * work.tokens,
                     'recurrent states': states * work.responses, 'logits': logits}
    return [always | at_end, always | at_start]
