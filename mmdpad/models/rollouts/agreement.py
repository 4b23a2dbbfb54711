# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Whether an engine that goes through a policy's layers itself samples the policy that trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import LogitsProcessorList, SuppressTokensLogitsProcessor

from mmdpad.models.heads import VLMReasoningHead
from mmdpad.models.heads.lora import adapted_layers
from mmdpad.models.heads.prompt_encoder import EncodedPrompt

from .engine import DrawingEngine
from .sampling import evaluating

TOKENS = 8
"""Of the response that is compared."""


@torch.no_grad()
def check_agreement(engine: DrawingEngine, head: VLMReasoningHead,
                    prompts: Sequence[EncodedPrompt]) -> None:
    """Compare the log-probabilities of a short response as an engine has them and as the policy
    has, where an adapter reaches beyond the decoder layers.

    For the comparison the adapters of embedding and output head get random weights, since a fresh
    one has no effect that could be missed; afterwards all is as it was. Not with sharded weights.

    Args:
        engine: It records log-probabilities.
        head: The policy.
        prompts: At least one; the first is taken.

    Raises:
        RuntimeError: They differ by more than rounding.
    """
    beyond = layers_beyond(head)
    if not beyond or any(isinstance(p, DTensor) for p in head.parameters()):
        return
    with evaluating(head.model), _with_effect(head, beyond):
        draws = torch.linspace(0.1, 0.9, TOKENS, dtype=torch.float64, device=head.device)[None]
        # Tokens of all kinds, since likely ones have much the same probability whatever went
        # before; and no end, since the first of them comes from the prompt's own pass.
        choice = LogitsProcessorList([
            SuppressTokensLogitsProcessor(head.end_tokens, device=head.device),
            lambda _, scores: scores / 10])
        ids, found = engine.generate(head, prompts[:1], 1, TOKENS, draws, choice)
        assert found is not None
        expected, _ = head.log_probs(prompts[:1], ids, torch.ones_like(ids).bool())
    distance = float((found - expected).abs().mean())
    # bfloat16 rounds each logit by some hundredths.
    precise = torch.finfo(head.model.dtype).bits >= 32 and not torch.is_autocast_enabled(
        head.device.type)
    if not distance < (bound := 1e-2 if precise else 0.5):
        raise RuntimeError(
            f'{type(engine).__name__} should sample the policy that trains, but with the adapter '
            f'in {", ".join(beyond)} its log-probabilities are {distance:.2g} nats off those of '
            f'the policy on average, more than the {bound:g} that rounding makes; use '
            f"`rollout_engine=dict(type='HFRollout')`, or take these out of `lora.target_modules`")


def layers_beyond(head: VLMReasoningHead) -> list[str]:
    """Names of the layers with an adapter that are no part of a decoder layer."""
    inside = {id(module) for layer in head.model.model.language_model.layers
              for module in layer.modules()}
    return [name for name, layer in adapted_layers(head.model).items() if id(layer) not in inside]


@contextmanager
def _with_effect(head: VLMReasoningHead, names: Sequence[str]) -> Iterator[None]:
    """Within the block the adapters outside of the vision tower, which an engine only calls,
    have an effect as large as the weights under them, or larger."""
    tower = {id(module) for module in head.model.model.visual.modules()}
    layers = [layer for layer in map(head.model.get_submodule, names) if id(layer) not in tower]
    kept: list[tuple[nn.Parameter, Tensor]] = []
    generator = torch.Generator().manual_seed(0)
    for layer in layers:
        base = layer.get_base_layer()
        # What follows an embedding makes up for its size; logits should not grow.
        size = float(base.weight.float().std()) * (4 if isinstance(base, nn.Embedding) else 1)
        matrices = [p for n, p in layer.named_parameters()
                    if '.default' in n and not n.startswith('base_layer.')]
        kept += [(p, p.detach().clone()) for p in matrices]
        for p in matrices:
            # The product of two, each of r terms, times the scaling.
            width = (size / (layer.r['default']**0.5 * layer.scaling['default']))**0.5
            p.copy_(torch.randn(p.shape, generator=generator).mul(width))
    try:
        yield
    finally:
        for parameter, value in kept:
            parameter.copy_(value)
