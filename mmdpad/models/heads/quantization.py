# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""4- and 8-bit weights under an adapter (QLoRA, arXiv 2305.14314), by bitsandbytes, and
prequantized folders."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.quantizers.auto import AutoHfQuantizer

from mmdpad.models.precision import read_dtype
from mmdpad.models.sources import read_config
from mmdpad.models.weights import first_line

from .experts import experts_of

NOT_SHARDED = ('`model.policy` should not have 8-bit weights under `FSDP2Strategy`, which cannot '
               'shard them; use 4 bits (`quantization=dict(load_in_4bit=True)`), or leave '
               '`strategy` out')
"""The message of :func:`check_shardable`."""
_BITSANDBYTES = 'bitsandbytes'


def quantization_config(quantization: Mapping[str, Any],
                        lora: Mapping[str, Any] | None) -> BitsAndBytesConfig:
    """Build the config with which ``from_pretrained`` quantizes a policy while loading it.

    Args:
        quantization: Arguments of ``transformers.BitsAndBytesConfig``.
        lora: The policy's ``lora``.

    Raises:
        ValueError: There is no ``lora`` (quantized weights cannot be trained), an argument is
            unknown, or there is neither ``load_in_4bit`` nor ``load_in_8bit``.
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
    return BitsAndBytesConfig(**quantization)


def describe_quantization(model_class: type[PreTrainedModel], source: str,
                          settings: BitsAndBytesConfig, dtype: str) -> str:
    """Describe, before weights are read, how many of them will be quantized, and the memory that
    the others take, which in a mixture of experts are most: bitsandbytes quantizes linear layers,
    and transformers holds fused experts in parameters.

    Args:
        model_class: The class of transformers.
        source: The folder, of which only config.json is read.
        settings: Of :func:`quantization_config`.
        dtype: The dtype of weights that are not quantized, see
            :func:`mmdpad.models.precision.read_dtype`.
    """
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    with torch.device('meta'):
        model, whole = model_class(config), model_class(config)
    AutoHfQuantizer.from_config(settings, pre_quantized=False).preprocess_model(
        model, device_map=None)
    size = read_dtype('model.policy.dtype', dtype).itemsize
    quantized = sum(whole.get_parameter(f'{name}.weight').numel()
                    for name in _quantized_layers(model))
    experts = sum(parameter.numel() for part in experts_of(whole).values()
                  for parameter in part.parameters())
    total = sum(parameter.numel() for parameter in whole.parameters())
    text = (f'{quantized / total:.0%} of {total / 1e9:.3g} billion weights are quantized to '
            f'{4 if settings.load_in_4bit else 8} bits; the others take '
            f'{(total - quantized) * size / 1e9:.3g} GB in {dtype}')
    return text if not experts else (
        f'{text}, {experts * size / 1e9:.3g} GB of it fused experts, which bitsandbytes does not '
        f'quantize')


def read_quantization(source: str) -> dict[str, Any] | None:
    """Read the ``quantization_config`` in the config.json of a folder or hub name; None if its
    weights are not quantized."""
    config = read_config(source)
    found = config.get('quantization_config') or (config.get('text_config') or {}).get(
        'quantization_config')
    return dict(found) if found else None


def refuse_quantized(source: str, purpose: str, hint: str) -> None:
    """Refuse quantized weights.

    Args:
        source: Folder or hub name.
        purpose: What the weights are needed for, such as 'to be trained'.
        hint: What to do, for the error message.

    Raises:
        ValueError: The weights are quantized.
    """
    if (found := read_quantization(source)) is not None:
        raise ValueError(
            f'The weights in {source!r} should not be quantized {purpose}, but its config.json '
            f'has a `quantization_config` ({_method(found)}); {hint}')


def check_trainable(source: str, lora: Mapping[str, Any] | None) -> None:
    """Check that a policy can be trained.

    Raises:
        ValueError: Its weights are quantized, and there is no ``lora``.
    """
    if lora is None:
        refuse_quantized(source, 'to be trained without `lora`, since quantized weights get no '
                         'gradients', 'set `model.policy.lora`, for example `lora=dict(r=64)`, or '
                         'name the unquantized model')


def check_prequantized(source: str, quantization: Mapping[str, Any] | None,
                       lora: Mapping[str, Any] | None) -> None:
    """Check that a policy can use prequantized weights; other weights always pass.

    Raises:
        ValueError: ``quantization`` would quantize them again, they do not support ``lora``, or
            transformers does not support the method, in general or on this machine.
        ImportError: A required package is not installed.
    """
    found = read_quantization(source)
    if found is None:
        return
    if quantization is not None:
        raise ValueError(f'`quantization` should be left out for {source!r}, whose weights are '
                         f'already quantized ({_method(found)}, by its config.json); remove it, '
                         f'or name the unquantized model')
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
        raise ValueError(f'The weights in {source!r} are quantized ({_method(found)}) and cannot '
                         f'be used here: {first_line(error)}. Name the unquantized model'
                         ) from error


def _check_adapter(source: str, found: Mapping[str, Any]) -> None:
    if _method(found) != _BITSANDBYTES:
        raise ValueError(
            f'`lora` needs unquantized weights or those of bitsandbytes, but the weights in '
            f'{source!r} are quantized by {_method(found)}; name the unquantized model (with '
            f'`quantization=dict(load_in_4bit=True)`, if memory is short)')


def _method(found: Mapping[str, Any]) -> str:
    """Return the ``quant_method``, which early bitsandbytes folders lack."""
    bits = found.get('load_in_4bit') or found.get('load_in_8bit')
    return str(found.get('quant_method') or (_BITSANDBYTES if bits else 'unknown'))


def prequantized_config(source: str) -> PreTrainedConfig | None:
    """Read the config of a folder quantized by bitsandbytes, with the current names of the modules
    that are not quantized; None for other folders.

    transformers 4 called the vision tower ``visual`` and the text model ``model``; transformers 5
    renames the weights, but not ``llm_int8_skip_modules``.
    """
    found = read_quantization(source)
    if found is None or _method(found) != _BITSANDBYTES:
        return None
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    kept = found.get('llm_int8_skip_modules') or ()
    # These are patterns; a name also covers all its submodules.
    anywhere = [rf'(.*\.)?{name.removeprefix("model.")}' for name in kept]
    config.quantization_config = dict(found, llm_int8_skip_modules=[*kept, *anywhere] or None)
    return config


def keep_trainable(model: nn.Module) -> None:
    """Keep quantized layers trainable after evaluation.

    On a CPU with avx512_bf16, bitsandbytes converts 4-bit weights to another layout in the first
    pass without gradients, and cannot backpropagate through it.
    """
    for module in model.modules():
        if hasattr(module, 'support_avx512bf16_for_cpu'):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def check_loaded(model: nn.Module, source: str) -> None:
    """Check that every layer of bitsandbytes has quantized weights.

    Raises:
        ValueError: The weights of a layer are not quantized, so it would ignore them.
    """
    _refuse_unquantized([name for name, module in _quantized_layers(model).items()
                         if getattr(module.weight, 'quant_state', None) is None
                         and getattr(module.weight, 'SCB', None) is None], source)


def check_shardable(model: nn.Module) -> None:
    """Check that FSDP2 can shard a model's weights, by :func:`fully_shard`.

    Raises:
        ValueError: A layer has 8-bit weights of bitsandbytes, which keep their scales elsewhere.
    """
    if any(type(layer).__name__ == 'Linear8bitLt' for layer in _quantized_layers(model).values()):
        raise ValueError(NOT_SHARDED)


def check_stored(model_class: type[PreTrainedModel], source: str, names: Iterable[str]) -> None:
    """Predict the outcome of :func:`check_loaded` from the names of a folder's tensors; folders
    that another method quantized always pass.

    Args:
        model_class: The class of transformers.
        source: The folder.
        names: The names of all its tensors.

    Raises:
        ValueError: See :func:`check_loaded`.
    """
    config = prequantized_config(source)
    if config is None:
        return
    with torch.device('meta'):
        model = model_class(config)
    AutoHfQuantizer.from_config(config.quantization_config, pre_quantized=True).preprocess_model(
        model, device_map=None)
    renamings = [entry for entry in get_model_conversion_mapping(model)
                 if isinstance(entry, WeightRenaming)]
    stored = {rename_source_key(name, renamings, [])[0] for name in names}
    _refuse_unquantized([name for name in _quantized_layers(model)
                         if not {f'{name}.weight.absmax', f'{name}.SCB'} & stored], source)


def _quantized_layers(model: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules()
            if type(module).__name__ in ('Linear4bit', 'Linear8bitLt')}


def _refuse_unquantized(layers: Sequence[str], source: str) -> None:
    if layers:
        raise ValueError(
            f'The weights of {len(layers)} layers ({", ".join(layers[:4])}) in {source!r} should '
            f'be quantized, but are not; list these layers in `llm_int8_skip_modules` of the '
            f'`quantization_config` in its config.json')
