# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""What passes of a workload hold, in bytes: measured for one group of responses, and scaled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmdpad.models.heads.token_log_probs import BLOCK, CPU_BLOCK

from .fake_policy import Arithmetic, ImageInputs
from .measured import LayerBytes, PartBytes, coarse, response_lengths
from .shapes import PolicyShape
from .workload import Setup, Workload


def text_bytes(shape: PolicyShape, setup: Setup, work: Workload) -> PartBytes:
    """The language model's pass over all prompts and responses of ``work``."""
    measured, factor = _measured_pass(setup, work)
    return _scaled(shape.measurements.text(*measured), factor)


def product_bytes(shape: PolicyShape, setup: Setup, work: Workload) -> list[int]:
    """What each layer of the language model keeps in that pass if only the operations between
    matrix products are repeated: its input and the outputs of products and attention."""
    measured, factor = _measured_pass(setup, work)
    return [int(factor * size) for size in shape.measurements.products(*measured)]


def _measured_pass(setup: Setup, work: Workload) -> tuple[
        tuple[Arithmetic, int, tuple[int, ...]], float]:
    """The pass that is measured, of one prompt and its responses, and how many times as many tokens
    ``work`` has."""
    own = Arithmetic(setup.weight_bytes, setup.amp, setup.lora_rank, setup.on_cpu,
                     setup.attention == 'eager', work.shared)
    prompt, response = coarse(work.prompt_tokens), coarse(work.length)
    lengths: tuple[int, ...] = (response, )
    if work.shared:
        lengths = response_lengths(work.group_size, response, coarse(work.padded))
    return (own, prompt, lengths), work.tokens / (prompt + sum(lengths))


def tower_bytes(shape: PolicyShape, setup: Setup, work: Workload,
                images: Mapping[ImageInputs, float]) -> PartBytes:
    """The vision tower's pass over so many images of each kind."""
    own = Arithmetic(setup.weight_bytes, setup.amp, eager=setup.attention == 'eager',
                     shared=work.shared, trains_vision=not setup.vision_is_fixed)
    return _sum([_scaled(shape.measurements.tower(own, image), count)
                 for image, count in images.items()])


def _sum(parts: Sequence[PartBytes]) -> PartBytes:
    def total(name: str, of: Iterable[Any]) -> int:
        return sum(getattr(one, name) for one in of)

    layers = tuple(LayerBytes(*(total(name, same) for name in ('kept', 'state', 'backward_peak')))
                   for same in zip(*(part.layers for part in parts), strict=True))
    return PartBytes(layers, total('ends', parts), total('forward', parts))


def _scaled(part: PartBytes, factor: float) -> PartBytes:
    layers = {layer: LayerBytes(*(int(factor * size) for size in (
        layer.kept, layer.state, layer.backward_peak)))
        for layer in {*part.layers}}
    return PartBytes(tuple(layers[layer] for layer in part.layers), int(factor * part.ends),
                     int(factor * part.forward))


def feature_bytes(shape: PolicyShape, setup: Setup, images: Mapping[ImageInputs, float]) -> int:
    """The features of so many images of each kind, of all levels."""
    return int(sum(count * image.tokens for image, count in images.items())
               ) * shape.feature_levels * shape.text.hidden * setup.compute_bytes


def around_text(shape: PolicyShape, setup: Setup, work: Workload) -> int:
    """Kept around the language model: the images' features and the mask of their places, and the
    states that predict the responses' tokens."""
    hidden, compute = shape.text.hidden, setup.compute_bytes
    predicting = 0 if setup.lora_rank else work.generated * hidden * compute
    return feature_bytes(shape, setup, work.all_images) + work.tokens * hidden + predicting


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
