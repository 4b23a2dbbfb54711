# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Low-rank adapters (LoRA, arXiv 2106.09685) inside a model, by peft."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

_LANGUAGE = r'.*language_model.*\.(q|k|v|o|gate|up|down)_proj'
# Names of the towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL; their mergers are left out.
_VISION = r'.*visual\.blocks.*\.(qkv|proj|fc1|fc2|(gate|up|down)_proj|linear_fc1|linear_fc2)'
LORA_TARGETS = dict(language=_LANGUAGE, language_and_vision=f'{_LANGUAGE}|{_VISION}')
"""Linear layers by name: attention and MLP of the language model; the same and those of the vision
tower's blocks."""
# With the adapter off, the model has to be what `pretrained` holds, and with it on, the same in
# every pass.
_ALLOWED: dict[str, tuple] = dict(bias=('none', ), modules_to_save=(None, ), lora_dropout=(0, ),
                                  init_lora_weights=(True, 'gaussian'))


def add_lora(model: nn.Module, lora: Mapping[str, Any]) -> None:
    """Put an adapter into a model, in place; modules keep their names.

    It starts without effect, its weights are float32, and only they take gradients.

    Args:
        model: A model of transformers.
        lora: Arguments of ``peft.LoraConfig``; ``target_modules`` may also be a name of
            :data:`LORA_TARGETS`, by default 'language'.

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
    config = peft.LoraConfig(**{**lora, 'target_modules': lora_targets(lora)})
    for name, allowed in _ALLOWED.items():
        if getattr(config, name) not in allowed:
            raise ValueError(
                f'`lora.{name}` should be {" or ".join(map(repr, allowed))}, so that the model '
                f'without its adapter is the reference policy and log-probabilities compare, but '
                f'got {getattr(config, name)!r}; leave it out')
    peft.inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def lora_targets(lora: Mapping[str, Any]) -> str | Sequence[str]:
    """The layers that get an adapter: a pattern of whole names, or last parts of names."""
    given = lora.get('target_modules', 'language')
    return LORA_TARGETS.get(given, given) if isinstance(given, str) else given


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
