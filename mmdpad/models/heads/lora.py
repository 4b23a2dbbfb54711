# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Low-rank adapters (LoRA, arXiv 2106.09685) inside a model, by peft."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from mmdpad.models.weights import from_folder

from .adapter_reach import (
    adapted_layers,
    check_names,
    check_patterns,
    check_reach,
    lora_targets,
)
from .families import family_of
from .policy_family import PolicyFamily

SCALING = 'adapter_scaling'
"""Key of :func:`adapter_scaling` in a policy's state."""
# An adapter consists of matrices beside frozen weights. With it off, the model must equal
# `pretrained`; with it on, it must be the same in training, sampling and every export.
_ALLOWED: dict[str, tuple] = dict(
    bias=('none', ), modules_to_save=(None, ), trainable_token_indices=(None, ), lora_dropout=(0, ),
    init_lora_weights=(True, 'gaussian'),
    ensure_weight_tying=(False, ),  # ties parameters only until `to` or an optimizer step
    layer_replication=(None, ), alora_invocation_tokens=(None, ), use_qalora=(False, ),
    **dict.fromkeys(('arrow_config', 'kasa_config', 'monteclora_config', 'use_bdlora',
                     'velora_config', 'megatron_config'), (None, )))


def add_lora(model: PreTrainedModel, lora: Mapping[str, Any]) -> Any:
    """Add an adapter to a model in place; modules keep their names.

    It has no effect at first. Its weights are float32, and only they require gradients.

    Args:
        model: A transformers model. If it is on the meta device, so is the adapter.
        lora: See :func:`lora_config`.

    Returns:
        The ``peft.LoraModel`` around the model, which can merge the adapter.

    Raises:
        ImportError, ValueError: See :func:`lora_config`.
        ValueError: A target or a pattern matches nothing, or the targets miss layers that they
            should reach, see :mod:`.adapter_reach`.
    """
    config = lora_config(lora, family_of(model))
    check_names(model, lora)
    import peft
    with warnings.catch_warnings(), _without_config(model):
        # peft recommends `ensure_weight_tying`, but tied weights with an adapter are handled here.
        warnings.filterwarnings('ignore', 'Model has `tie_word_embeddings=True`')
        tuner = peft.LoraModel(model, config, 'default',
                               low_cpu_mem_usage=next(model.parameters()).is_meta)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    check_patterns(model, config)
    check_reach(model, lora)
    return tuner


@contextmanager
def _without_config(model: Any) -> Iterator[None]:
    """A context in which peft takes a model for one that is not of transformers. It would take the
    names of layers in the MLPs of some mixtures of experts for those of their experts."""
    config = vars(model).pop('config')
    try:
        yield
    finally:
        model.config = config


def check_lora(family: PolicyFamily, source: str, lora: Mapping[str, Any],
               hint: str, freeze_vision: bool = False) -> None:
    """Check that an adapter fits a model before its weights are read.

    Runs :func:`add_lora` on the meta device, and reads only config.json.

    Args:
        family: The policy's family.
        source: Folder or hub name.
        lora: See :func:`lora_config`.
        hint: What to do when config.json cannot be used, for the error message.
        freeze_vision: Whether the vision tower is frozen.

    Raises:
        ImportError, ValueError: See :func:`add_lora`.
        ValueError: The adapter reaches a frozen vision tower.
    """
    lora_config(lora)
    with torch.device('meta'):
        model = family.model_class(from_folder(AutoConfig, source, hint))
    add_lora(model, lora)
    reached = [name for name in adapted_layers(model) if family.is_vision(name)]
    if freeze_vision and reached:
        raise ValueError(f'`lora` should not reach the vision tower with `freeze_vision=True`, but '
                         f'has an adapter in {len(reached)} of its layers ({reached[0]}, ...); '
                         f'take them out of `target_modules`, or leave `freeze_vision` out')


def lora_config(lora: Mapping[str, Any], family: PolicyFamily | None = None) -> Any:
    """Build the ``peft.LoraConfig``. ``target_modules`` may also be one of :data:`REACHES`, by
    default 'language', for a model of a family; None only checks the other arguments.

    Raises:
        ImportError: peft is not installed.
        ValueError: An argument is unknown, changes the model with the adapter off, or selects a
            kind of adapter that training, sampling or exports do not support; or layers are chosen
            by number without listed targets.
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
    for name, allowed in _ALLOWED.items():
        if lora.get(name, allowed[0]) not in allowed:
            raise ValueError(
                f'`lora.{name}` should be {" or ".join(map(repr, allowed))}, so that the model '
                f'without its adapter is the reference policy and log-probabilities are '
                f'comparable, but got {lora[name]!r}; leave it out')
    asked = lora_targets(lora, None)
    for name in ('layers_to_transform', 'layers_pattern'):
        if lora.get(name) is not None and isinstance(asked, str):
            raise ValueError(f'`lora.target_modules` should be a list of names with '
                             f"`lora.{name}`, such as ['q_proj', 'v_proj'], but got {asked!r}; "
                             f'list them, or name these layers by a pattern without `{name}`')
    return peft.LoraConfig(**{**lora, 'target_modules': lora_targets(lora, family)})


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """A context in which the model is as before :func:`add_lora`."""
    layers = adapted_layers(model).values()
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def adapter_scaling(model: nn.Module) -> Tensor:
    """Return (L,) float32, the factors of the adapter's matrix product in L adapted layers:
    ``lora_alpha`` / ``r``, or ``lora_alpha`` / sqrt(``r``) with ``use_rslora``. The matrices do not
    reveal them."""
    return torch.tensor([layer.scaling[adapter] for layer in adapted_layers(model).values()
                         for adapter in layer.active_adapters])


def check_scaling(model: nn.Module, given: Tensor) -> None:
    """Refuse weights of an adapter that was trained with a scaling other than the model's.

    Args:
        model: A model with an adapter.
        given: :func:`adapter_scaling` of the model that the weights belong to.

    Raises:
        ValueError: The two differ.
    """
    names, own = list(adapted_layers(model)), adapter_scaling(model)
    given = given.cpu().float()
    if own.shape == given.shape and not own.allclose(given):
        first = int((own - given).abs().argmax())
        raise ValueError(
            f'`model.policy.lora` should scale the adapter as in its training, by '
            f'{given[first].item():g} in {names[first]}, but scales it by {own[first].item():g}; '
            f'set `lora_alpha`, `use_rslora` and `alpha_pattern` as in the run that wrote it (the '
            f'scaling is lora_alpha / r, with use_rslora lora_alpha / sqrt(r))')


def tied_and_adapted(model: PreTrainedModel) -> list[str]:
    """List which of the embedding and output head have an adapter, if they share a weight."""
    ends = dict(embed_tokens=model.get_input_embeddings(), lm_head=model.get_output_embeddings())
    bases = [getattr(module, 'base_layer', module) for module in ends.values()]
    if bases[0].weight is not bases[1].weight:
        return []
    return [name for name, module in ends.items() if hasattr(module, 'base_layer')]


def check_mergeable(model: nn.Module) -> None:
    """Check that an adapter can be merged into the base weights.

    Raises:
        ValueError: The adapter adds a bias to a layer that has none.
    """
    for name, layer in adapted_layers(model).items():
        if any(layer.lora_bias.values()) and getattr(layer.get_base_layer(), 'bias', None) is None:
            raise ValueError(f'An adapter with `lora.lora_bias` can only be merged into layers '
                             f'with a bias, but {name} has none; use the adapter unmerged')
