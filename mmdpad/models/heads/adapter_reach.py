# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Which layers of a model an adapter reaches, and checks that these are the intended ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from .families import family_of
from .policy_family import PolicyFamily

REACHES = ('language', 'language_and_vision')
"""Names of :meth:`.PolicyFamily.lora_targets`."""
_ALL_LINEAR = 'all-linear'  # peft's own name


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


def describe_reach(model: PreTrainedModel) -> str:
    """Describe for the log the number of layers with an adapter, by kind, and how many of them are
    in the vision tower; listed targets of which other settings leave no layer; and the matrices
    that only ``target_parameters`` reaches, if they have none."""
    layers, family = adapted_layers(model), family_of(model)
    counts = Counter(_kind(name, layer) for name, layer in layers.items())
    seeing = sum(name.startswith(f'{family.vision_tower}.') for name in layers)
    text = f'adapter in {len(layers)} layers' + (
        f' ({seeing} of them in the vision tower)' if seeing else '') + ': ' + ', '.join(
        f'{number} {kind}' for kind, number in sorted(counts.items()))
    config: Any = model.peft_config['default']
    listed = () if isinstance(config.target_modules, str) else config.target_modules
    if absent := sorted(target for target in listed if not any(
            names_layer([target], name) for name in layers)):
        text += f'; no layer with one is named {" or ".join(absent)}'
    if missed := [name for name, is_reached in _matrices(model, of_linears=False).items()
                  if not is_reached]:
        text += (f'; none in {", ".join(missed)}, which are not linear layers '
                 f'(`lora.target_parameters` would name them)')
    return text


def names_layer(targets: str | Iterable[str], layer: str) -> bool:
    """Whether ``target_modules`` or ``exclude_modules`` name a layer: a pattern that matches its
    full name, or a list that has its last parts."""
    if isinstance(targets, str):
        return re.fullmatch(targets, layer) is not None
    return any(f'.{layer}'.endswith(f'.{target}') for target in targets)


def matches_layer(pattern: str, layer: str) -> bool:
    """Whether a key of ``rank_pattern`` or ``alpha_pattern`` matches a layer's full name."""
    return re.match(rf'(.*\.)?({pattern})$', layer) is not None


def check_names(model: PreTrainedModel, lora: Mapping[str, Any]) -> None:
    """Check that a model has what its future adapter names.

    Raises:
        ValueError: A pattern, a listed layer or a parameter matches nothing.
    """
    asked = lora_targets(lora, None) or ()
    modules = [name for name, _ in model.named_modules() if name]
    parameters = [name for name, _ in model.named_parameters()]
    if isinstance(asked, str):
        if asked not in (*REACHES, _ALL_LINEAR) and not any(
                names_layer(asked, name) for name in modules):
            family = family_of(model)
            example = _linears_of(family.language(model).layers[0])[0]
            raise ValueError(
                f'`lora.target_modules={asked!r}` should match full names of layers, such as '
                f'{family.language_model}.layers.0.{example}, but matches none; correct it, or '
                f'list last parts of names')
    elif unknown := [name for name in asked if not any(
            names_layer([name], module) for module in modules)]:
        raise ValueError(
            f'`lora.target_modules={[*asked]!r}` should name layers of the model, but there is no '
            f'{", ".join(unknown)}{_nearest(model, unknown)}; correct or remove them')
    if unknown := [name for name in lora.get('target_parameters') or () if not any(
            names_layer([name], parameter) for parameter in parameters)]:
        raise ValueError(
            f'`lora.target_parameters` should name parameters of the model, but there is no '
            f'{", ".join(unknown)}{_nearest(model, unknown)}; correct or remove them')
    if unknown := unknown_exclusions(model, lora):
        raise ValueError(
            f'`lora.exclude_modules={lora["exclude_modules"]!r}` should match layers of the model, '
            f'but {", ".join(unknown)} matches none; correct or remove it')


def unknown_exclusions(model: nn.Module, lora: Mapping[str, Any]) -> list[str]:
    """The pattern of ``exclude_modules``, or those of its listed names, that match no layer."""
    excluded = lora.get('exclude_modules') or ()
    asked = {excluded: excluded} if isinstance(excluded, str) else {
        name: [name] for name in excluded}
    return [name for name, targets in asked.items() if not any(
        names_layer(targets, module) for module, _ in model.named_modules() if module)]


def _nearest(model: PreTrainedModel, names: Sequence[str]) -> str:
    """The linear layers and fused experts with the most similar names, for an error message."""
    layers = {name.rpartition('.')[2]: name.rpartition('.')[2]
              for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    fused = {name.rpartition('.')[2]: name for name in _matrices(model, of_linears=False)}
    text = ''
    for known, where in ((layers, 'are '), (fused, 'are, in `target_parameters`, ')):
        near = dict.fromkeys(known[match] for name in names
                             for match in get_close_matches(name.rpartition('.')[2], known))
        if near:
            text += f'{" and" if text else " (the nearest names"} {where}{", ".join(near)}'
    return f'{text})' if text else ''


def check_patterns(model: nn.Module, config: Any) -> None:
    """Check that each key of ``rank_pattern`` and ``alpha_pattern`` matches a layer with an
    adapter.

    Raises:
        ValueError: One does not.
    """
    for name in ('rank_pattern', 'alpha_pattern'):
        for pattern in getattr(config, name):
            if not any(matches_layer(pattern, layer) for layer in adapted_layers(model)):
                raise ValueError(f'`lora.{name}` should name layers that get an adapter, but got '
                                 f'{pattern!r}, which none matches; correct or remove it')


def check_reach(model: PreTrainedModel, lora: Mapping[str, Any]) -> None:
    """Check that an adapter reaches what its targets promise: one of :data:`REACHES` every kind of
    linear layer in the language model's layers, anything else layers of every kind.

    Raises:
        ValueError: It misses some, and neither ``exclude_modules`` nor ``layers_to_transform`` says
            that it should.
    """
    asked = lora_targets(lora, None)
    missed = [name for name, is_reached in _matrices(model).items() if not is_reached]
    if isinstance(asked, str) and asked in REACHES and missed and not lora.get('exclude_modules'):
        family = family_of(model)
        raise ValueError(
            f'`lora.target_modules={asked!r}` should reach every kind of linear layer in the '
            f'language model, but misses {", ".join(missed)}; add their names to '
            f'`language_linears` of its PolicyFamily, or give the pattern that it stands for '
            f'yourself: `target_modules={family.lora_targets(asked)!r}`')
    numbers = missed_layers(model, adapted_layers(model), lora)
    if numbers:
        layers = family_of(model).language(model).layers
        linears = {name.rpartition('.')[2] for number in numbers
                   for name in _linears_of(layers[number])}
        kinds = {model.config.get_text_config().layer_types[number] for number in numbers}
        raise ValueError(
            f'`lora.target_modules={asked!r}` should reach layers of every kind, but none of the '
            f'{len(numbers)} {", ".join(sorted(kinds))} layers has an adapter (their linear layers '
            f'are {", ".join(sorted(linears))}); add targets, or confirm that they are left out: '
            f'`exclude_modules={exclusion_of(model, numbers, lora)!r}`')


def missed_layers(model: PreTrainedModel, adapted: Collection[str],
                  lora: Mapping[str, Any]) -> list[int]:
    """List the language model's layers of the kinds (``layer_types``) of which none has an adapter,
    while one of another kind has, unless the settings leave them out by name or number.

    Args:
        model: A transformers model.
        adapted: Full names of the layers with an adapter.
        lora: Settings of the adapter.
    """
    if lora.get('layers_to_transform') is not None:
        return []
    kinds = getattr(model.config.get_text_config(), 'layer_types', None) or ()
    start, excluded = f'{family_of(model).language_model}.layers.', lora.get('exclude_modules')
    reached = {kinds[int(name.removeprefix(start).partition('.')[0])]
               for name in adapted if kinds and name.startswith(start)}
    layers = family_of(model).language(model).layers
    return [number for number, kind in enumerate(kinds)
            if reached and kind not in reached and not any(
                names_layer(excluded or (), f'{start}{number}.{name}')
                for name in _linears_of(layers[number]))]


def exclusion_of(model: PreTrainedModel, numbers: Collection[int], lora: Mapping[str, Any]) -> str:
    """The pattern for ``exclude_modules`` that confirms that layers have no adapter, by the parts
    that only they have, or by their numbers; with what the settings exclude already."""
    layers = family_of(model).language(model).layers
    others = {name for number, layer in enumerate(layers) if number not in numbers
              for name, _ in layer.named_children()}
    own = {name.partition('.')[0] for number in numbers for name in _linears_of(layers[number])}
    start = family_of(model).language_model.replace('.', '[.]')
    pattern = (f".*[.]({'|'.join(sorted(own - others))})[.].*" if own - others else
               f"{start}[.]layers[.]({'|'.join(map(str, numbers))})[.].*")
    before = lora.get('exclude_modules')
    if not before:
        return pattern
    return f'{before if isinstance(before, str) else pattern_of(before)}|{pattern}'


def pattern_of(names: Iterable[str]) -> str:
    """The pattern that names what a list of last parts of names does."""
    return f"(.*[.])?({'|'.join(sorted(name.replace('.', '[.]') for name in names))})"


def _matrices(model: PreTrainedModel, of_linears: bool = True) -> dict[str, bool]:
    """Map the kinds of linear layers in the language model's layers, or of matrices elsewhere (such
    as fused experts), to whether one of them has an adapter."""
    reached = {id(_adapted_weight(layer)) for layer in adapted_layers(model).values()}
    kinds: dict[str, bool] = {}
    for layer in family_of(model).language(model).layers:
        for path, module in layer.named_modules():
            if '.lora_' in f'.{path}':
                continue
            for name, parameter in module.named_parameters(path, recurse=False):
                if parameter.ndim > 1 and isinstance(module, nn.Linear) == of_linears:
                    name = name.replace('.base_layer', '')
                    name = name.removesuffix('.weight') if of_linears else name
                    kinds[name] = kinds.get(name, False) or id(parameter) in reached
    return kinds


def _linears_of(layer: nn.Module) -> list[str]:
    """The names of a layer's linear layers, with or without adapters."""
    names = (name.removesuffix('.base_layer') for name, module in layer.named_modules()
             if isinstance(module, nn.Linear) and '.lora_' not in f'.{name}')
    return list(dict.fromkeys(names))


def _adapted_weight(layer: Any) -> Tensor:
    return getattr(layer.get_base_layer(), getattr(layer, 'parameter_name', 'weight'))


def _kind(name: str, layer: Any) -> str:
    """The kind of a layer: 'q_proj', 'mlp.0', or 'experts.down_proj' for a parameter."""
    parts = name.replace('.base_layer', '').split('.')
    last = parts[-2:] if parts[-1].isdigit() else parts[-1:]
    return '.'.join([*last, *filter(None, [getattr(layer, 'parameter_name', '')])])
