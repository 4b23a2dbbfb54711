# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What a forward pass keeps for the backward pass, in bytes.

Every term is a tensor that autograd saves in transformers' layers of Qwen-VL and GLM-V and in
:mod:`mmdpad.models.heads.shared_prefix`; a comment names each where it is counted. Bytes of one
number: c in the output of a linear map or attention, w in a weight, r in the residual stream.

    arithmetic                     w  c  r (language)  r (vision)
    float32                        4  4  4             4
    bfloat16 by autocast           4  2  4             2
    bfloat16 weights               2  2  2             2
"""

from __future__ import annotations

from dataclasses import dataclass

from mmdpad.models.heads.token_log_probs import BLOCK, CPU_BLOCK

from .shapes import PolicyShape, TextShape, VisionShape
from .workload import Setup, Workload


@dataclass(frozen=True)
class LayerBytes:
    """Bytes of one layer.

    Attributes:
        attention, mlp: What each half keeps until its backward pass.
        attention_peak, mlp_peak: What the backward pass of a half holds at its peak in addition:
            gradients of activations, minus what is freed by then.
        state: The layer's input, all that is kept if the layer is recomputed.
        products: That and the outputs of matrix products and attention, all that is kept if only
            the operations between them are repeated.
    """

    attention: int
    mlp: int
    attention_peak: int
    mlp_peak: int
    state: int
    products: int = 0

    @property
    def kept(self) -> int:
        """What both halves keep."""
        return self.attention + self.mlp

    @property
    def backward_peak(self) -> int:
        """Peak of the backward pass, including what was kept; the MLP comes first."""
        return max(self.kept + self.mlp_peak, self.attention + self.attention_peak)


def text_layer(text: TextShape, setup: Setup, work: Workload) -> LayerBytes:
    """One layer of the language model, for all prompts and responses of ``work``."""
    tokens, compute, state = work.tokens, setup.compute_bytes, setup.weight_bytes
    trains = not setup.lora_rank
    norm = _norm(text.hidden, state, state * trains)
    per_token = norm + _linear_inputs(text.hidden, state, setup, 3)
    if text.norms_heads:  # float32 queries and keys, also normalized
        per_token += (4 + compute * trains) * (text.attention + text.kv)
    # The norm of a half's output, which is of the compute type.
    output = _norm(text.hidden, state, compute * trains) if text.norms_outputs else 0
    attention = tokens * (per_token + output + _linear_inputs(text.attention, compute, setup, 1))
    kernel, peak = _kernel(text, setup, work)
    if setup.lora_rank:  # outputs of the adapters' first matrices
        attention += 4 * setup.lora_rank * compute * tokens
    inside, peak_inside = _mlp(text, setup) if text.experts is None else _experts(text, setup)
    gradient = state * text.hidden * tokens
    return LayerBytes(attention + kernel, tokens * (norm + output + inside), gradient + peak,
                      gradient + tokens * peak_inside, gradient,
                      gradient + _products(text, setup, work))


def _mlp(text: TextShape, setup: Setup) -> tuple[int, int]:
    """Kept by an MLP per token, and the peak of its gradients."""
    compute = setup.compute_bytes
    maps = 1 if text.fuses_gate else 2
    # Gate, its activation, up, and their product; outputs of the adapters' first matrices.
    kept = 4 * compute * text.intermediate + (maps + 1) * setup.lora_rank * compute
    # Gradients of product, activation and up together, after the product itself is freed.
    return (kept + _linear_inputs(text.hidden, setup.weight_bytes, setup, maps),
            2 * compute * text.intermediate)


def _experts(text: TextShape, setup: Setup) -> tuple[int, int]:
    """The same for a mixture of experts. An adapter is not in it."""
    assert text.experts is not None
    compute, chosen, trains = setup.compute_bytes, text.experts.chosen, not setup.lora_rank
    # Of each chosen expert: gate and up, the activation, the output (for the router's gradient),
    # and six numbers that say which token and expert belong together; to train it, also its input
    # and the product of activation and up.
    kept = chosen * (compute * (3 * text.intermediate + text.hidden
                                + trains * (text.intermediate + text.hidden)) + 48)
    kept += 4 * text.experts.count  # the router's probabilities
    kept += trains * _linear_inputs(text.hidden, setup.weight_bytes, setup, 1)
    if setup.on_cpu:  # one expert after the other
        return kept, setup.weight_bytes * text.hidden
    # Gradients of the outputs, before and after they are weighted, and of the weights.
    return kept, chosen * compute * max(3 * text.hidden, 4 * text.intermediate)


def mlp_weight(text: TextShape, setup: Setup) -> int:
    """Numbers in the gradient of the largest weight of an MLP or of its experts; on a CPU, that of
    each expert is as large as that of all, and is added to it."""
    if text.experts is None:
        return text.hidden * text.intermediate
    return (2 if setup.on_cpu else 1) * 2 * text.experts.weights // (3 * text.layers)


def inside_mlp(text: TextShape) -> int:
    """Numbers per token inside an MLP, at the peak of a pass without gradients: three tensors. For
    each chosen expert: its input, and either gate and up, the activation and the product, or the
    output, before and after it is weighted and put in order."""
    if text.experts is None:
        return 3 * text.intermediate
    return text.experts.chosen * (text.hidden + max(4 * text.intermediate, 3 * text.hidden))


def _products(text: TextShape, setup: Setup, work: Workload) -> int:
    """Outputs of the linear maps (those of an adapter's first matrices, too) and of attention."""
    linear = text.attention + 2 * text.kv + text.hidden
    if text.experts is None:
        inner = (6 if text.fuses_gate else 7) * setup.lora_rank
        linear += text.hidden + 2 * text.intermediate + inner
    else:
        linear += text.experts.chosen * (text.hidden + 2 * text.intermediate)
        linear += text.experts.count + 4 * setup.lora_rank
    kernel = setup.compute_bytes * text.attention + 4 * text.heads
    attended = work.tokens
    if work.shared:  # on a CPU, responses' tokens attend to their prompt and to each other in turn
        attended += work.responses * work.padded - (0 if setup.on_cpu else work.generated)
    return work.tokens * setup.compute_bytes * linear + attended * kernel


def _norm(width: int, state: int, normalized: int) -> int:
    """Kept by an RMS norm per token: its input in float32, and the normalized input, which only the
    gradient of its weight needs. A float32 input is the residual stream itself, not a copy."""
    return (4 + normalized) * width


def _linear_inputs(width: int, given: int, setup: Setup, consumers: int) -> int:
    """Kept per token: the input of ``consumers`` linear maps, for the gradient of their weights.

    It is one tensor of ``given`` bytes per number, or one copy for each map if they compute in
    another type (an adapter makes its own copy, through float32).
    """
    wanted = setup.compute_bytes
    if setup.lora_rank and not setup.amp:
        wanted = 4
    through_float32 = setup.lora_rank and setup.weight_bytes != 4
    if given == wanted and not through_float32:
        return width * given
    return consumers * width * wanted


def _kernel(text: TextShape, setup: Setup, work: Workload) -> tuple[int, int]:
    """Attention without its projections: what it keeps, and the peak of its gradients."""
    compute, tokens, width = setup.compute_bytes, work.tokens, text.attention
    if not work.shared:
        length = work.prompt_tokens + work.response_tokens
        pairs = work.responses * text.heads * length**2
        if setup.attention == 'eager':  # probabilities in float32, and in the type of the values
            kept = pairs * (4 + (compute if compute != 4 else 0)) + 4 * tokens * width * compute
            return kept, pairs * (4 + compute)
        # Query, key and value of each head, output, and the logarithm of its denominator.
        return tokens * (4 * width * compute + 4 * text.heads), 3 * tokens * width * compute
    if setup.on_cpu:  # query, key and value, output, and the logarithm of its denominator
        both = 2 * (width + text.kv) * compute
        return tokens * (both + 4 * text.heads), tokens * (both + width * compute)
    queries = work.responses * work.padded
    keys = queries + work.responses * work.prompt_tokens  # a response has its prompt's, too
    prompts = work.prompts * work.prompt_tokens
    # If queries and keys are cast for the kernel, the responses' part of them is not kept.
    cast = setup.amp and setup.weight_bytes == 4
    prefix = (2 * (prompts if cast else tokens) + tokens) * width * compute
    own = (queries + 2 * keys) * width * compute
    outputs = tokens * (width * compute + 4 * text.heads)
    mask = work.prompts * work.padded * (work.prompt_tokens + work.padded) * compute
    return prefix + own + outputs + mask, own + 2 * tokens * width * compute


def vision_block(vision: VisionShape, setup: Setup, work: Workload) -> LayerBytes:
    """One block of a trained vision tower: the mean of those with and without windows."""
    compute, width, images = setup.compute_bytes, vision.hidden, work.prompts
    patches = images * work.patches
    weight = setup.weight_bytes
    # An RMS norm keeps its normalized input (on CUDA, the fused one of vision_tower.py does not);
    # Qwen3's layer norm does not.
    norm = _norm(width, compute, compute if vision.gated else 0)
    # Query and key with positions, value, the output per length of windows and concatenated, and
    # the logarithm of the denominator. transformers keeps query and key without positions, too.
    kept = 5 if work.shared else 7
    attention = norm + _linear_inputs(width, weight, setup, 1) + kept * width * compute
    attention += 4 * vision.heads
    inside = (4 if vision.gated else 2) * compute * vision.intermediate
    mlp = norm + _linear_inputs(width, weight, setup, 2 if vision.gated else 1) + inside
    probabilities = 0
    if setup.attention == 'eager':
        full = vision.full_blocks / vision.layers
        pairs = full * work.window_pairs(0) + (1 - full) * work.window_pairs(vision.window)
        probabilities = int(images * pairs * vision.heads * (4 + (compute if compute != 4 else 0)))
    gradient = compute * width * patches
    return LayerBytes(
        attention * patches + probabilities, mlp * patches,
        gradient + 5 * width * compute * patches + probabilities,
        gradient + (2 if vision.gated else 1) * compute * vision.intermediate * patches,
        gradient)


def vision_ends(vision: VisionShape, setup: Setup, work: Workload) -> int:
    """Kept before the first block (the patches) and after the last (the mergers)."""
    compute = setup.compute_bytes
    patch = 3 * 2 * vision.patch**2 * compute
    norm = _norm(vision.hidden, compute, compute if vision.gated else 0)
    merger = norm + _linear_inputs(vision.hidden, setup.weight_bytes, setup, 1)
    per_patch = patch + norm * vision.norms_patches + vision.mergers * merger
    inside = vision.mergers * vision.merger_inside * compute
    return work.prompts * (work.patches * per_patch + work.image_tokens * inside)


def text_ends(shape: PolicyShape, setup: Setup, work: Workload) -> int:
    """Kept before the first layer (positions, image mask) and after the last: its output,
    normalized, and the states that predict the responses' tokens."""
    text, state = shape.text, setup.weight_bytes
    trains = not setup.lora_rank
    positions = 2 * state * text.rotary
    per_token = positions + text.hidden * (1 + 4 + state * trains)
    return (work.tokens * per_token
            + work.generated * text.hidden * (setup.compute_bytes if trains else 0))


@dataclass(frozen=True)
class LogitBytes:
    """Bytes of the output head: kept until its backward pass, and the peaks of both passes."""

    kept: int
    forward: int
    backward: int


def logit_bytes(shape: PolicyShape, setup: Setup, work: Workload) -> LogitBytes:
    """Count tensors of V numbers for each token of a response (V: vocabulary size).

    Forward: the logits, and for a block of them at a time three float32 tensors: scaled, their
    exponential, and a temporary one. Backward: the logits, their gradient, and a block; then the
    gradient and that of the head's weights. If logits are computed in chunks, none are kept.
    """
    size = max(1, setup.max_logits // shape.text.vocabulary)
    cells = shape.text.vocabulary * min(work.generated, size)
    block = 3 * max(4, setup.weight_bytes) * min(cells, CPU_BLOCK if setup.on_cpu else BLOCK)
    logits = setup.compute_bytes * cells
    head = 0 if setup.lora_rank else (
        setup.weight_bytes * shape.text.hidden * shape.text.vocabulary)
    return LogitBytes(logits if work.generated <= size else 0, logits + block,
                      max(2 * logits + block, logits + head))
