# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Names of weight dtypes, and which of them can be trained."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

DTYPES = ('float32', 'bfloat16', 'float16', 'float64')
SWITCH = 'low_precision_training'
# Measured in docs/benchmarks/10_weights_of_16_bits.json: 20 steps at a learning rate of 1e-6.
MOVED = {'bfloat16': 0.0033, 'float32': 0.998}
_SHORT = dict(fp32='float32', float='float32', bf16='bfloat16', fp16='float16', half='float16',
              fp64='float64', double='float64')
_LOSS = {
    'bfloat16': f'which rounds most updates away: at a learning rate of 1e-6, 20 steps of AdamW '
                f'move {MOVED["bfloat16"]:.1%} of the weights of the toy policy (float32: '
                f'{MOVED["float32"]:.1%})',
    'float16': 'in which the squares of small gradients are 0: the first step of AdamW makes '
               'weights of the toy policy infinite or NaN'}


def find_wrong_dtype(key: str, value: Any, known: Sequence[str] = DTYPES) -> str | None:
    """Check the name of a dtype; return the problem and its fix, or None if it is valid."""
    if isinstance(value, str) and value in known:
        return None
    name = str(value).removeprefix('torch.')
    close = [_SHORT.get(name, name), *difflib.get_close_matches(name, known, n=1)]
    advice = next((f'write {one!r}' for one in close if one in known), 'correct it')
    return f'`{key}` should be one of {", ".join(map(repr, known))}, but got {value!r}; {advice}'


def read_dtype(key: str, value: str, known: Sequence[str] = DTYPES) -> torch.dtype:
    """Return the dtype with a name.

    Raises:
        ValueError: The name is not one of ``known``.
    """
    if problem := find_wrong_dtype(key, value, known):
        raise ValueError(problem)
    return getattr(torch, value)


def find_untrainable(policy: Mapping[str, Any], key: str = 'model.policy') -> str | None:
    """Explain why the weights of a policy cannot be trained in their dtype, and how to fix it.

    Args:
        policy: Arguments of :class:`mmdpad.models.VLMReasoningHead`.
        key: Its key in the config.

    Returns:
        One sentence; None if they can be trained.
    """
    dtype = policy.get('dtype')
    if policy.get('lora') is not None or policy.get(SWITCH) or dtype not in _LOSS:
        return None
    return _refusal(key, dtype)


def find_untrainable_weights(head: nn.Module) -> str | None:
    """As :func:`find_untrainable`, for a built policy of any class: checks the weights that require
    gradients."""
    names = {str(p.dtype).removeprefix('torch.') for p in head.parameters() if p.requires_grad}
    low = sorted(names & _LOSS.keys())
    return _refusal('model.policy', low[0]) if low and not getattr(head, SWITCH, False) else None


def _refusal(key: str, dtype: str) -> str:
    return (f"`{key}.dtype` should be 'float32' where weights are trained, but got {dtype!r}, "
            f"{_LOSS[dtype]}; set dtype='float32' with "
            f"`optim_wrapper=dict(type='AmpOptimWrapper', dtype='bfloat16')`, or train a float32 "
            f'adapter on these weights with `{key}.lora` (`mmdpad run estimate_cost CONFIG` '
            f'estimates the memory of both), or set `{key}.{SWITCH}=True` for an optimizer that '
            f'compensates for this itself (docs/policies.md)')
