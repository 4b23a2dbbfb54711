# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Estimates what a forward pass costs besides its tokens, which decides how many are guessed."""

from __future__ import annotations

from typing import NamedTuple

from transformers import PreTrainedModel

from mmdpad.models.heads.experts import experts_of
from mmdpad.models.heads.families import family_of


class Rates(NamedTuple):
    """Rough properties of a kind of device: bytes read and operations per second, and the seconds
    that it takes to start the operations of a layer."""

    bytes: float
    operations: float
    layer: float


RATES = dict(cpu=Rates(1e10, 4e10, 3e-4), gpu=Rates(2e12, 4e14, 2e-4))
GUESSING = 1.5e-3
"""Seconds that it takes to guess for a pass, and to arrange different numbers of tokens."""


def estimate_pass_cost(model: PreTrainedModel) -> float:
    """Estimate how many tokens take as long as a pass over no tokens, which reads all weights and
    starts all operations; 0 if guessing takes longer.

    A token is multiplied with few of a layer's experts, but the tokens of all samples read most of
    them. The estimate does not depend on the machine or its load, so that the same run makes the
    same passes anywhere.
    """
    text, layers = model.config.get_text_config(), family_of(model).language(model).layers
    head = text.hidden_size * text.vocab_size
    weights = sum(p.numel() for p in layers.parameters()) + head
    used = weights - sum(
        p.numel() * (part.num_experts - text.num_experts_per_tok) // part.num_experts
        for part in experts_of(layers).values() for p in part.parameters())
    rates = RATES['cpu' if model.device.type == 'cpu' else 'gpu']
    seconds = weights * model.dtype.itemsize / rates.bytes + text.num_hidden_layers * rates.layer
    return max(seconds - GUESSING, 0.0) * rates.operations / (2 * used)
