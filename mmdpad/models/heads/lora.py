# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Low-rank adapters (LoRA, arXiv 2106.09685) inside a model, by peft."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from mmdpad.models.weights import from_folder

from .families import family_of
from .policy_family import PolicyFamily

REACHES = ('language', 'language_and_vision')
"""Names of :meth:`.PolicyFamily.lora_targets`."""
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
        ValueError: The targets or a pattern match nothing; or the targets should cover all matrices
            in the language model's layers, but miss a kind of them; or listed targets are all in
            layers of one kind, such as full attention, and `layers_to_transform` does not say so;
            or peft turns names of layers into parameters of experts.
    """
    config = lora_config(lora, family_of(model))
    import peft
    with warnings.catch_warnings():
        # peft recommends `ensure_weight_tying`, but tied weights with an adapter are handled here.
        warnings.filterwarnings('ignore', 'Model has `tie_word_embeddings=True`')
        tuner = peft.LoraModel(model, config, 'default',
                               low_cpu_mem_usage=next(model.parameters()).is_meta)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    _check_moved(config, lora)
    _check_patterns(model, config)
    _check_reach(model, lora)
    _check_layer_kinds(model, lora)
    return tuner


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
            kind of adapter that training, sampling or exports do not support.
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
    return peft.LoraConfig(**{**lora, 'target_modules': lora_targets(lora, family)})


def lora_targets(lora: Mapping[str, Any], family: PolicyFamily | None) -> str | Sequence[str]:
    """Return the layers that get an adapter: a pattern for full names, or last parts of names."""
    given = lora.get('target_modules', REACHES[0])
    return given if family is None or given not in REACHES else family.lora_targets(given)


def adapted_layers(model: nn.Module) -> dict[str, Any]:
    """Find peft's layers in a model, by name; there are none without an adapter."""
    if not hasattr(model, 'peft_config'):
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer
    return {name: module for name, module in model.named_modules()
            if isinstance(module, BaseTunerLayer)}


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


def describe_reach(model: PreTrainedModel) -> str:
    """Describe for the log the number of layers with an adapter, by kind, and how many of them are
    in the vision tower; listed targets that are in none; and the matrices that only
    ``target_parameters`` reaches, if they have none."""
    layers, family = adapted_layers(model), family_of(model)
    counts = Counter(_kind(name, layer) for name, layer in layers.items())
    seeing = sum(name.startswith(f'{family.vision_tower}.') for name in layers)
    text = f'adapter in {len(layers)} layers' + (
        f' ({seeing} of them in the vision tower)' if seeing else '') + ': ' + ', '.join(
        f'{number} {kind}' for kind, number in sorted(counts.items()))
    config: Any = model.peft_config['default']
    listed = () if isinstance(config.target_modules, str) else config.target_modules
    if absent := sorted(target for target in listed if not any(
            f'.{name}'.endswith(f'.{target}') for name in layers)):
        text += f'; no layer with one is named {" or ".join(absent)}'
    if missed := [name for name, is_reached in _layer_kinds(model, of_linears=False).items()
                  if not is_reached]:
        text += (f'; none in {", ".join(missed)}, which are not linear layers '
                 f'(`lora.target_parameters` would name them)')
    return text


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


def matches_layer(pattern: str, layer: str) -> bool:
    """Whether a key of ``rank_pattern`` or ``alpha_pattern`` matches a layer's full name."""
    return re.match(rf'(.*\.)?({pattern})$', layer) is not None


def _check_moved(config: Any, lora: Mapping[str, Any]) -> None:
    """Refuse names of layers that peft has turned into parameters of experts. It does so for models
    whose files hold each expert's weights, wherever layers of these names are."""
    asked = lora.get('target_parameters') or ()
    if moved := sorted({*(config.target_parameters or ())} - {*asked}):
        raise ValueError(
            f'`lora.target_modules={lora_targets(lora, None)!r}` should not name '
            f'layers of MLPs in this model, since peft takes them for its experts and adapts '
            f'{", ".join(moved)} instead; name those of attention: `target_modules='
            f"['q_proj', 'k_proj', 'v_proj', 'o_proj']`, and experts in `target_parameters`")


def _check_patterns(model: nn.Module, config: Any) -> None:
    for name in ('rank_pattern', 'alpha_pattern'):
        for pattern in getattr(config, name):
            if not any(matches_layer(pattern, layer) for layer in adapted_layers(model)):
                raise ValueError(f'`lora.{name}` should name layers that get an adapter, but got '
                                 f'{pattern!r}, which none matches; correct or remove it')


def _check_reach(model: PreTrainedModel, lora: Mapping[str, Any]) -> None:
    """Refuse one of :data:`REACHES` that misses a kind of linear layer in the language model's
    layers."""
    asked = lora_targets(lora, None)
    if asked not in REACHES or lora.get('exclude_modules'):
        return
    missed = [name for name, is_reached in _layer_kinds(model).items() if not is_reached]
    if missed:
        family = family_of(model)
        raise ValueError(
            f'`lora.target_modules={asked!r}` should reach every kind of linear layer in the '
            f'language model, but misses {", ".join(missed)}; add their names to '
            f'`language_linears` of its PolicyFamily, or give the pattern that it stands for '
            f'yourself: `target_modules={family.lora_targets(asked)!r}`')


def _layer_kinds(model: PreTrainedModel, of_linears: bool = True) -> dict[str, bool]:
    """Map the kinds of linear layers in the language model's layers, or of matrices elsewhere (such
    as fused experts), to whether one of them has an adapter."""
    reached = {id(_adapted_weight(layer)) for layer in adapted_layers(model).values()}
    kinds: dict[str, bool] = {}
    for layer in family_of(model).language(model).layers:
        for path, module in layer.named_modules():
            for name, parameter in module.named_parameters(path, recurse=False):
                if (parameter.ndim > 1 and not parameter.requires_grad
                        and isinstance(module, nn.Linear) == of_linears):
                    name = name.replace('.base_layer', '')
                    name = name.removesuffix('.weight') if of_linears else name
                    kinds[name] = kinds.get(name, False) or id(parameter) in reached
    return kinds


def _check_layer_kinds(model: PreTrainedModel, lora: Mapping[str, Any]) -> None:
    """Refuse a list of targets that leaves out all layers of a kind: the names that are common in
    models with full attention may be in few layers of one with linear attention."""
    asked = lora_targets(lora, None)
    if isinstance(asked, str) or lora.get('layers_to_transform') is not None:
        return
    if missed := missed_layers(model, adapted_layers(model)):
        layers = family_of(model).language(model).layers
        linears = {name.rpartition('.')[2] for number in missed
                   for name, module in layers[number].named_modules()
                   if isinstance(module, nn.Linear)}
        kinds = {model.config.get_text_config().layer_types[number] for number in missed}
        raise ValueError(
            f'`lora.target_modules={asked!r}` should reach layers of every kind, but none of the '
            f'{len(missed)} {", ".join(sorted(kinds))} layers has an adapter (their linear layers '
            f'are {", ".join(sorted(linears))}); add targets, or confirm by a pattern that reaches '
            f'the same: `target_modules={pattern_of(asked)!r}`')


def missed_layers(model: PreTrainedModel, adapted: Collection[str]) -> list[int]:
    """List the language model's layers of the kinds (``layer_types``) of which none has an adapter,
    while one of another kind has.

    Args:
        model: A transformers model.
        adapted: Full names of the layers with an adapter.
    """
    kinds = getattr(model.config.get_text_config(), 'layer_types', None) or ()
    start = f'{family_of(model).language_model}.layers.'
    reached = {kinds[int(name.removeprefix(start).partition('.')[0])]
               for name in adapted if kinds and name.startswith(start)}
    return [number for number, kind in enumerate(kinds) if reached and kind not in reached]


def pattern_of(names: Iterable[str]) -> str:
    """The pattern for ``target_modules`` that reaches what a list of names reaches. Unlike a list,
    it may leave out all layers of a kind."""
    return f"(.*[.])?({'|'.join(sorted(name.replace('.', '[.]') for name in names))})"


def _adapted_weight(layer: Any) -> Tensor:
    return getattr(layer.get_base_layer(), getattr(layer, 'parameter_name', 'weight'))


def _kind(name: str, layer: Any) -> str:
    """The kind of a layer: 'q_proj', 'mlp.0', or 'experts.down_proj' for a parameter."""
    parts = name.replace('.base_layer', '').split('.')
    last = parts[-2:] if parts[-1].isdigit() else parts[-1:]
    return '.'.join([*last, *filter(None, [getattr(layer, 'parameter_name', '')])])
