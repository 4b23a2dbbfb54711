# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Low-rank adapters (LoRA, arXiv 2106.09685) inside a model, by peft."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

# Attention and MLP of the language model; the vision tower's layers share some of these names.
LORA_TARGETS = r'.*language_model.*\.(q|k|v|o|gate|up|down)_proj'
# With the adapter off, the model has to be what `pretrained` holds, and with it on, the same in
# every pass.
_ALLOWED: dict[str, tuple] = dict(bias=('none', ), modules_to_save=(None, ), lora_dropout=(0, ),
                                  init_lora_weights=(True, 'gaussian'))


def add_lora(model: nn.Module, lora: Mapping[str, Any]) -> None:
    """Put an adapter into a model, in place; modules keep their names.

    It starts without effect, its weights are float32, and only they take gradients.

    Args:
        model: A model of transformers.
        lora: See :func:`lora_config`.
    """
    config = lora_config(lora)
    import peft
    peft.inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def lora_config(lora: Mapping[str, Any]) -> Any:
    """The ``peft.LoraConfig`` of these arguments; ``target_modules`` is :data:`LORA_TARGETS` by
    default.

    Raises:
        ImportError: peft is not installed.
        ValueError: An argument is unknown, or would change the model with the adapter off.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError(f'`lora` needs peft ({error}); install it: `pip install '
                          f'"mmdpad[lora]"`') from error
    known = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    if unknown := sorted(lora.keys() - known):
        raise ValueError(f'`lora` should hold arguments of peft.LoraConfig (r, lora_alpha, '
                         f'target_modules, ...), but got {unknown}; correct or remove them')
    config = peft.LoraConfig(**{'target_modules': LORA_TARGETS, **lora})
    for name, allowed in _ALLOWED.items():
        if getattr(config, name) not in allowed:
            raise ValueError(
                f'`lora.{name}` should be {" or ".join(map(repr, allowed))}, so that the model '
                f'without its adapter is the reference policy and log-probabilities compare, but '
                f'got {getattr(config, name)!r}; leave it out')
    return config


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """The model as it was before :func:`add_lora`, for as long as the context lasts."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
