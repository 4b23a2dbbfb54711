# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Weights in 4 or 8 bits below an adapter (QLoRA, arXiv 2305.14314), by bitsandbytes; and folders
whose weights are quantized already."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from torch import nn
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedConfig
from transformers.quantizers.auto import AutoHfQuantizer

from mmdpad.models.sources import read_config
from mmdpad.models.weights import first_line

KEPT = ('model.visual', 'lm_head')
"""Modules that keep their weights: the vision tower and the output head."""
_BITSANDBYTES = 'bitsandbytes'


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
        raise ValueError(f'`quantization` should hold arguments of '
                         f'transformers.BitsAndBytesConfig, but got {unknown}; correct or remove '
                         f'them: it takes {", ".join(sorted(known))}')
    if not (quantization.get('load_in_4bit') or quantization.get('load_in_8bit')):
        raise ValueError(f'`quantization` should hold `load_in_4bit=True` or `load_in_8bit=True`, '
                         f'but got {dict(quantization)}; add one, or leave `quantization` out')
    if find_spec(_BITSANDBYTES) is None:
        raise ImportError('`quantization` needs bitsandbytes, which is not installed; install it: '
                          '`pip install "mmdpad[qlora]"`')
    return BitsAndBytesConfig(**{'llm_int8_skip_modules': list(KEPT), **quantization})


def read_quantization(source: str) -> dict[str, Any] | None:
    """How the weights of a folder or hub name are quantized, by its config.json (in which
    ``quant_method`` names the program); None if they are not."""
    config = read_config(source)
    found = config.get('quantization_config') or (config.get('text_config') or {}).get(
        'quantization_config')
    return dict(found) if found else None


def refuse_quantized(source: str, purpose: str, remedy: str) -> None:
    """Raise where weights have to be whole.

    Args:
        source: Folder or hub name.
        purpose: What they are wanted for, as in 'to be trained'.
        remedy: What to do.

    Raises:
        ValueError: They are quantized.
    """
    if (found := read_quantization(source)) is not None:
        raise ValueError(
            f'The weights in {source!r} should not be quantized {purpose}, but they are, as the '
            f'`quantization_config` ({_method(found)}) in its config.json says; {remedy}')


def check_trainable(source: str, lora: Mapping[str, Any] | None) -> None:
    """Whether a policy of a folder can be trained.

    Raises:
        ValueError: Its weights are quantized, and there is no ``lora``.
    """
    if lora is None:
        refuse_quantized(source, 'to be trained without `lora`, since quantized weights take no '
                         'gradient', 'set `model.policy.lora`, for example `lora=dict(r=64)`, or '
                         'name the model that was quantized')


def check_prequantized(source: str, quantization: Mapping[str, Any] | None,
                       lora: Mapping[str, Any] | None) -> None:
    """Whether a policy can be made of weights that are quantized already; nothing for others.

    Raises:
        ValueError: ``quantization`` would quantize them again, ``lora`` is not possible over them,
            or transformers does not know or cannot use how they are quantized here.
        ImportError: A package is not installed that they need.
    """
    found = read_quantization(source)
    if found is None:
        return
    if quantization is not None:
        raise ValueError(f'`quantization` should be left out for {source!r}, whose weights are '
                         f'quantized already ({_method(found)}, by its config.json); leave it out, '
                         f'or name the model that was quantized')
    if lora is not None:
        _check_adapter(source, found)
    try:
        if not AutoHfQuantizer.supports_quant_method(found):
            raise ValueError('transformers does not know this method')
        AutoHfQuantizer.from_config(found, pre_quantized=True).validate_environment(
            device_map=None)
    except ImportError as error:
        raise ImportError(f'The weights in {source!r} are quantized ({_method(found)}): '
                          f'{first_line(error)}') from error
    except (ValueError, RuntimeError, TypeError, NotImplementedError) as error:
        raise ValueError(f'The weights in {source!r} are quantized ({_method(found)}), and cannot '
                         f'be used here: {first_line(error)}. Name the model that was quantized'
                         ) from error


def _check_adapter(source: str, found: Mapping[str, Any]) -> None:
    if _method(found) != _BITSANDBYTES:
        raise ValueError(
            f'`lora` should go over whole weights or those of bitsandbytes, but those in '
            f'{source!r} are quantized by {_method(found)}; name the model that was quantized '
            f'(with `quantization=dict(load_in_4bit=True)`, if memory is short)')


def _method(found: Mapping[str, Any]) -> str:
    """`quant_method`, which the first bitsandbytes folders left out."""
    bits = found.get('load_in_4bit') or found.get('load_in_8bit')
    return str(found.get('quant_method') or (_BITSANDBYTES if bits else 'unknown'))


def prequantized_config(source: str) -> PreTrainedConfig | None:
    """The config of a folder of bitsandbytes, with the modules that it keeps whole under the names
    that they have by now; None for others.

    transformers 4 called the vision tower `visual` and the text model `model`; transformers 5
    renames the weights, but not `llm_int8_skip_modules`.
    """
    found = read_quantization(source)
    if found is None or _method(found) != _BITSANDBYTES:
        return None
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    kept = found.get('llm_int8_skip_modules') or ()
    # Patterns; a name stands for the module and all within.
    anywhere = [rf'(.*\.)?{name.removeprefix("model.")}' for name in kept]
    config.quantization_config = dict(found, llm_int8_skip_modules=[*kept, *anywhere] or None)
    return config


def keep_trainable(model: nn.Module) -> None:
    """Let quantized layers compute alike in training and evaluation mode.

    On a CPU with avx512_bf16, bitsandbytes turns a 4-bit weight into another layout in its first
    pass without gradients, which it cannot train through afterwards.
    """
    for module in model.modules():
        if hasattr(module, 'support_avx512bf16_for_cpu'):
            module.support_avx512bf16_for_cpu = False


def check_loaded(model: nn.Module, source: str) -> None:
    """Whether every layer for weights of bitsandbytes got such weights.

    Raises:
        ValueError: One has whole weights, which it would not compute with.
    """
    whole = [name for name, module in model.named_modules()
             if type(module).__name__ in ('Linear4bit', 'Linear8bitLt')
             and getattr(module.weight, 'quant_state', None) is None
             and getattr(module.weight, 'SCB', None) is None]
    if whole:
        raise ValueError(
            f'The weights of {len(whole)} layers ({", ".join(whole[:4])}) in {source!r} should be '
            f'quantized, but are whole; name them in `llm_int8_skip_modules` of the '
            f'`quantization_config` in its config.json')
