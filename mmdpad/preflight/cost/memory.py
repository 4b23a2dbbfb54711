# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Accelerator memory of a training step, in bytes, moment by moment.

Weights, optimizer state and reference are there all the time. What comes on top has its peak at
one of a few moments; the step needs the largest of these, not their sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .activations import logit_bytes, text_ends, text_layer, vision_block, vision_ends
from .shapes import PolicyShape
from .workload import Setup, Workload

Bytes = dict[str, float]


def step_memory(shape: PolicyShape, setup: Setup, work: Workload,
                frozen: Mapping[str, float] | None = None, gpus: int = 1) -> dict[str, Bytes]:
    """Moment -> component -> bytes on each of ``gpus``, data parallel.

    Args:
        shape: The policy.
        setup: How it is trained.
        work: The step's prompts and responses on one GPU.
        frozen: Bytes of further models.
        gpus: With several, gradients are kept a second time, in the buckets that are exchanged,
            unless ``setup.bucket_views``.
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
        'optimizer, for a moment': setup.step * setup.trained_bytes * trained}
    if setup.rollout != 'none':
        moments['rollout'] = {**always, **buckets, **rollout_memory(shape, setup, work)}
    return moments


def peak(moments: Mapping[str, Mapping[str, float]]) -> tuple[str, float]:
    """The moment that needs most, and its bytes."""
    totals = {name: sum(parts.values()) for name, parts in moments.items()}
    moment = max(totals, key=totals.__getitem__)
    return moment, totals[moment]


def full_shard(moments: Mapping[str, Mapping[str, float]], gpus: int) -> dict[str, Bytes]:
    """The same with all that has a number per weight divided by ``gpus``, without what gathering a
    layer takes: the ideal that ``FSDP2Strategy`` comes near."""
    shared = {'weights', 'adapter', 'optimizer state', 'gradients', 'reference',
              'bfloat16 copies of weights', 'optimizer, for a moment'}
    return {name: {part: value / gpus if part in shared else value
                   for part, value in parts.items() if part != 'gradient buckets'}
            for name, parts in moments.items()}


def trained_weights(shape: PolicyShape, setup: Setup) -> int:
    if setup.lora_rank:
        return setup.lora_rank * shape.adapter
    return shape.parameters - shape.vision_parameters * setup.freeze_vision


def gradient_bytes(shape: PolicyShape, setup: Setup) -> int:
    """Gradients have the type of the weight."""
    return (4 if setup.offload else setup.trained_bytes) * trained_weights(shape, setup)


def standing(shape: PolicyShape, setup: Setup) -> Bytes:
    """What is there from the first step's end on, gradients left out.

    The reference shares a vision tower that is not trained, and is the policy itself without its
    adapter where there is one.
    """
    quantized = shape.text.linear if setup.quantized_bytes else 0
    parts: Bytes = {'weights': (shape.parameters - quantized) * setup.weight_bytes
                    + quantized * setup.quantized_bytes}
    if quantized:
        parts['weight in use, not quantized'] = (
            shape.text.hidden * shape.text.intermediate * setup.compute_bytes)
    if setup.lora_rank:
        parts['adapter'] = setup.trained_bytes * trained_weights(shape, setup)
    elif setup.reference:
        parts['reference'] = setup.weight_bytes * (
            shape.parameters - shape.vision_parameters * setup.freeze_vision)
    parts['optimizer state'] = (
        setup.state * setup.trained_bytes * trained_weights(shape, setup))
    return parts


def _casts(setup: Setup) -> int:
    """Bytes of a weight's bfloat16 copy, 0 where there is none."""
    return 2 if setup.amp and setup.weight_bytes == 4 else 0


def cast_bytes(shape: PolicyShape, setup: Setup) -> int:
    """The bfloat16 copies of linear maps' float32 weights at the end of a forward pass.

    Autocast keeps those of weights that are trained until the pass ends; of frozen ones below an
    adapter autograd keeps them, unless layers are computed again.
    """
    if setup.lora_rank:
        below = 0 if setup.checkpointing else shape.castable - shape.vision_castable
        below -= shape.text.linear if setup.quantized_bytes and below else 0
        return 2 * setup.amp * trained_weights(shape, setup) + _casts(setup) * below
    return _casts(setup) * (shape.castable - shape.vision_castable * setup.freeze_vision)


def update_moments(shape: PolicyShape, setup: Setup, work: Workload) -> dict[str, Bytes]:
    """What an update of the groups of ``work`` holds beyond :func:`standing`.

    Where one pass makes an optimizer step, gradients appear one by one in the backward pass, while
    activations go; either is largest at one of its ends.
    """
    text = shape.text
    layer, block = text_layer(text, setup, work), vision_block(shape.vision, setup, work)
    again = setup.checkpointing
    vision = 0
    if not setup.vision_is_fixed:
        vision = vision_ends(shape.vision, setup, work) + shape.vision.layers * (
            block.state if again else block.kept)
    features = work.prompts * work.image_tokens * text.hidden * setup.compute_bytes
    below = vision + features + text_ends(shape, setup, work)
    activations = below + text.layers * (layer.state if again else layer.kept)
    logits = logit_bytes(shape, setup, work)

    gradients = gradient_bytes(shape, setup)
    before = gradients if setup.accumulates else 0
    of_vision = 0 if setup.vision_is_fixed else setup.weight_bytes * shape.vision_parameters
    of_text = gradients - of_vision * (not setup.accumulates)
    head = 0 if setup.lora_rank else setup.weight_bytes * text.hidden * text.vocabulary
    # The gradient of an MLP's weights before it is added to what is there.
    new = 0 if setup.lora_rank else setup.weight_bytes * text.hidden * text.intermediate
    copies = cast_bytes(shape, setup)
    # Layers that are computed again drop their copies with the first forward pass.
    remaining = copies if not again else _casts(setup) * (text.linear // text.layers + head // 4)

    def moment(gradients: int, copies: int, activations: int, logits: int = 0) -> Bytes:
        return {'gradients': gradients, 'bfloat16 copies of weights': copies,
                'activations': activations, 'logits': logits}

    moments = {
        'forward': moment(before, copies, activations, logits.forward),
        # Logits in parts find the gradient of an earlier part.
        'backward, logits': moment(before + head * (not logits.kept), remaining, activations,
                                   logits.backward),
        'backward, last layer': moment(
            max(before + new, head), remaining,
            activations + layer.backward_peak - (0 if again else layer.kept)),
        'backward, first layer': moment(of_text + new * setup.accumulates, remaining,
                                        below + layer.backward_peak),
        'backward, end': moment(gradients + head * (setup.accumulates or shape.tied), 0, 0),
    }
    if setup.reference:
        # Its weights take no gradient, so autocast keeps no copy of them but the one in use.
        peak = forward_peak(shape, setup, work,
                            0 if setup.vision_is_fixed else work.prompts)
        in_use = _casts(setup) * text.hidden * text.vocabulary
        moments['reference'] = moment(before, copies + in_use, activations + peak, logits.kept)
    if not setup.vision_is_fixed:
        moments['backward, vision'] = moment(of_text, remaining, vision + block.backward_peak
                                             - (0 if again else block.kept))
    return moments


def forward_peak(shape: PolicyShape, setup: Setup, work: Workload, images: int) -> int:
    """A forward pass without gradients, at the widest place of the language model or of the vision
    tower: three tensors inside an MLP, or of an eager attention's probabilities; states (of tokens:
    the model's input, the layer's, that behind attention, and normalized) and positions; and the
    pixels of ``images`` in float32."""
    text, vision, compute = shape.text, shape.vision, setup.compute_bytes
    eager = setup.attention == 'eager'
    length = work.prompt_tokens + work.response_tokens
    scores = 0 if work.shared else work.responses * text.heads * length**2 * eager
    language = max(work.tokens * text.intermediate * compute, 4 * scores)
    states = (4 * text.hidden + 2 * text.attention // text.heads) * work.tokens
    tower = images * max(work.patches * vision.intermediate * compute,
                         4 * vision.heads * work.window_pairs(0) * eager)
    patches = images * work.patches
    return (max(3 * language + setup.weight_bytes * states,
                3 * tower + 6 * compute * vision.hidden * patches)
            + 4 * 3 * 2 * vision.patch**2 * patches)


def rollout_memory(shape: PolicyShape, setup: Setup, work: Workload) -> Bytes:
    """A rollout of all prompts at its peak: that of the prefill, or the end of the decoding.

    With float32 weights under autocast the keys, which get their positions in float32, stay
    float32; values are bfloat16. Sampling takes float32 logits and three float64 tensors of them.
    """
    work = replace(work, shared=setup.rollout == 'shared')
    text = shape.text
    cache = text.layers * text.kv * (setup.weight_bytes + setup.compute_bytes)
    prefill = replace(work, response_tokens=0)
    logits = work.responses * text.vocabulary * (4 + 3 * 8)
    at_start = {'key-value cache': cache * prefill.tokens,
                'prefill': forward_peak(shape, setup, prefill, work.images)}
    at_end = {'key-value cache': cache * work.tokens, 'logits': logits}
    return {'bfloat16 copies of weights': cast_bytes(shape, setup),
            **max(at_start, at_end, key=lambda parts: sum(parts.values()))}
