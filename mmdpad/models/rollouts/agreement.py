# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks that an engine that runs the decoder layers itself samples the trained policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import LogitsProcessorList, SuppressTokensLogitsProcessor

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.adapter_reach import adapted_layers
from mmdpad.models.heads.encoded_prompt import EncodedPrompt

from .engine import DrawingEngine
from .sampling import evaluating

TOKENS = 8
"""Length of the response to compare."""


@torch.no_grad()
def check_agreement(engine: DrawingEngine, head: VLMReasoningHead,
                    prompts: Sequence[EncodedPrompt]) -> None:
    """Compare an engine's log-probabilities of a short response with the policy's, if an adapter
    reaches beyond the decoder layers. Sharded weights are not compared.

    During the comparison, the adapters of embedding and output head have random weights, since a
    fresh adapter has no effect, and ignoring it would go unnoticed.

    Args:
        engine: An engine that records log-probabilities.
        head: The policy.
        prompts: At least one; the first is used.

    Raises:
        RuntimeError: They differ by more than rounding.
    """
    beyond = layers_beyond(head)
    if not beyond or any(isinstance(p, DTensor) for p in head.parameters()):
        return
    with evaluating(head.model), _with_effect(head, beyond):
        draws = torch.linspace(0.1, 0.9, TOKENS, dtype=torch.float64, device=head.device)[None]
        # Unlikely tokens too, since likely ones have similar probabilities whatever precedes them;
        # and no end token, since the first token comes from the prompt's own pass.
        choice = LogitsProcessorList([
            SuppressTokensLogitsProcessor(
                head.end_tokens, device=head.device),  # type: ignore[arg-type]
            lambda _, scores: scores / 10])
        ids, found = engine.generate(head, prompts[:1], 1, TOKENS, draws, choice)
        assert found is not None
        expected, _ = head.log_probs(prompts[:1], ids, torch.ones_like(ids).bool())
    distance = float((found - expected).abs().mean())
    if not distance < (bound := most_rounding(head)):
        raise RuntimeError(
            f'{type(engine).__name__} should sample the policy that is trained, but with the '
            f'adapter in {", ".join(beyond)} its log-probabilities are off by {distance:.2g} nats '
            f'on average, more than rounding explains ({bound:g}); use '
            f"`rollout_engine=dict(type='HFRollout')`, or remove these from `lora.target_modules`")


def most_rounding(head: VLMReasoningHead) -> float:
    """How far log-probabilities of two computations may be apart on average, in nats.

    bfloat16 rounds each logit by a few hundredths.
    """
    precise = torch.finfo(head.model.dtype).bits >= 32 and not torch.is_autocast_enabled(
        head.device.type)
    return 1e-2 if precise else 0.5


def layers_beyond(head: VLMReasoningHead) -> list[str]:
    """List the layers with an adapter outside the decoder layers."""
    inside = {id(module) for layer in head.family.language(head.model).layers
              for module in layer.modules()}
    return [name for name, layer in adapted_layers(head.model).items() if id(layer) not in inside]


@contextmanager
def _with_effect(head: VLMReasoningHead, names: Sequence[str]) -> Iterator[None]:
    """Within the block, give adapters an effect at least as large as their base weights. Those in
    what encodes images do not change, since engines only call it."""
    layers: list[Any] = [head.model.get_submodule(name) for name in names
                         if not head.family.is_vision(name)]
    kept: list[tuple[nn.Parameter, Tensor]] = []
    generator = torch.Generator().manual_seed(0)
    for layer in layers:
        base = layer.get_base_layer()
        # A norm after the embedding rescales its output; logits should not grow.
        size = float(base.weight.float().std()) * (4 if isinstance(base, nn.Embedding) else 1)
        matrices = [p for n, p in layer.named_parameters()
                    if '.default' in n and not n.startswith('base_layer.')]
        kept += [(p, p.detach().clone()) for p in matrices]
        for p in matrices:
            # An entry of the product is a sum of r terms, times the scaling.
            width = (size / (layer.r['default']**0.5 * layer.scaling['default']))**0.5
            p.copy_(torch.randn(p.shape, generator=generator).mul(width))
    try:
        yield
    finally:
        for parameter, value in kept:
            parameter.copy_(value)
