# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Weights in 4 or 8 bits below an adapter (QLoRA, arXiv 2305.14314), by bitsandbytes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from torch import nn
from transformers import BitsAndBytesConfig

KEPT = ('model.visual', 'lm_head')
"""Modules that keep their weights: the vision tower and the output head."""


def quantization_config(quantization: Mapping[str, Any],
                        lora: Mapping[str, Any] | None) -> BitsAndBytesConfig:
    """What ``from_pretrained`` needs to quantize a policy as it loads it.

    Args:
        quantization: Arguments of ``transformers.BitsAndBytesConfig``; ``llm_int8_skip_modules``,
            which both 4 and 8 bits heed, is :data:`KEPT` by default.
        lora: That of the policy.

    Raises:
        ValueError: No ``lora`` (quantized weights take no gradient), an argument is unknown, or
            there is neither ``load_in_4bit`` nor ``load_in_8bit``.
        ImportError: bitsandbytes is not installed.
    """
    if lora is None:
        raise ValueError('`quantization` should come with `lora`, since quantized weights cannot '
                         'be trained, but `lora` is None; set it, for example `lora=dict(r=64)`')
    known = inspect.signature(BitsAndBytesConfig).parameters.keys() - {'kwargs'}
    if unknown := sorted(quantization.keys() - known):
        raise ValueError(f'`quantization` should hold arguments of transformers.BitsAndBytesConfig '
                         f'({", ".join(sorted(known))}), but got {unknown}; correct or remove them')
    if not (quantization.get('load_in_4bit') or quantization.get('load_in_8bit')):
        raise ValueError(f'`quantization` should hold `load_in_4bit=True` or `load_in_8bit=True`, '
                         f'but got {dict(quantization)}; add one, or leave `quantization` out')
    if find_spec('bitsandbytes') is None:
        raise ImportError('`quantization` needs bitsandbytes, which is not installed; install it: '
                          '`pip install "mmdpad[qlora]"`')
    return BitsAndBytesConfig(**{'llm_int8_skip_modules': list(KEPT), **quantization})


def keep_trainable(model: nn.Module) -> None:
    """Let quantized layers compute alike in training and evaluation mode.

    On a CPU with avx512_bf16, bitsandbytes turns a 4-bit weight into another layout in its first
    pass without gradients, which it cannot train through afterwards.
    """
    for module in model.modules():
        if hasattr(module, 'support_avx512bf16_for_cpu'):
            module.support_avx512bf16_for_cpu = False
