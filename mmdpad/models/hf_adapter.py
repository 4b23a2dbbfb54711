# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Exports policy adapters for peft, merges them into their model, and imports them from peft."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from mmdpad.models.adapter_folder import WEIGHTS, AdapterFolder, as_code, read_adapter
from mmdpad.models.heads.adapter_reach import (
    REACHES,
    adapted_layers,
    exclusion_of,
    matches_layer,
    missed_layers,
    names_layer,
    unknown_exclusions,
)
from mmdpad.models.heads.families import family_of
from mmdpad.models.heads.lora import (
    SCALING,
    adapter_scaling,
    add_lora,
    check_mergeable,
    check_scaling,
    lora_config,
    tied_and_adapted,
)
from mmdpad.models.heads.policy_source import EXAMPLE
from mmdpad.models.sources import check_source
from mmdpad.models.weights import LoadReport, from_folder, load_pretrained, read_state_dict

_IN_PEFT = 'base_model.model.'  # precedes transformers' names
_IN_POLICY = 'policy.'


def check_adapter(model: PreTrainedModel, lora: Mapping[str, Any], state: Mapping[str, Tensor],
                  checkpoint: str, merge: bool, hint: str) -> dict[str, Tensor]:
    """Add an adapter to a model on the meta device, and check that a checkpoint's weights fit it.

    Args:
        model: The base model, on the meta device.
        lora: See :func:`mmdpad.models.heads.lora.lora_config`.
        state: The checkpoint's weights, under the model's names.
        checkpoint: The checkpoint's name.
        merge: Whether the adapter will be merged.
        hint: What to do when the weights do not fit, for the error message.

    Returns:
        The adapter's weights, under the model's names.

    Raises:
        ValueError: Names, shapes or the scaling differ, or the adapter cannot be merged, or peft
            could not load it.
    """
    add_lora(model, lora)
    if merge:
        check_mergeable(model)
    else:
        _config_for_peft(model, lora)
    weights = {name: value for name, value in state.items() if name != _IN_POLICY + SCALING}
    LoadReport.of(_adapter_weights(model), weights, checkpoint).settle(hint)
    if len(weights) < len(state):
        check_scaling(model, state[_IN_POLICY + SCALING])
    return weights


def save_adapter(model: PreTrainedModel, state: Mapping[str, Tensor], lora: Mapping[str, Any],
                 source: str, folder: Path) -> None:
    """Write what ``peft.PeftModel.from_pretrained`` reads.

    Args:
        model: A model with the adapter, on any device. Its values are not used.
        state: The adapter's weights, under the model's names.
        lora: See :func:`mmdpad.models.heads.lora.lora_config`.
        source: The base model.
        folder: An existing folder.
    """
    from safetensors.torch import save_file
    config = _config_for_peft(model, lora)
    is_folder = Path(source).is_dir()
    config.base_model_name_or_path = str(Path(source).resolve()) if is_folder else source
    config.inference_mode = True
    config.save_pretrained(str(folder))
    save_file({_IN_PEFT + file: state[name].contiguous()
               for file, name in _names_in_files(model).items()},
              folder / WEIGHTS[0], metadata=dict(format='pt'))


def _config_for_peft(model: PreTrainedModel, lora: Mapping[str, Any]) -> Any:
    """The ``peft.LoraConfig`` with which peft adds the same adapter to a model of transformers.

    In some mixtures of experts, peft takes the names of layers in MLPs for those of the experts.
    It gets these layers as parameters, which have the same weights in its files.

    Raises:
        ValueError: Such layers have what an adapter of parameters cannot have.
    """
    config = lora_config(lora, family_of(model))
    named = {name: layer for name, layer in adapted_layers(model).items()
             if not hasattr(layer, 'parameter_name')}
    moved = {name for leaf in {name.rpartition('.')[2] for name in named} if _moves(model, leaf)
             for name in named if name.endswith(f'.{leaf}')}
    if not moved:
        return config
    if wrong := [name for name in ('use_dora', 'lora_bias') if getattr(config, name)]:
        raise ValueError(
            f'An adapter with `lora.{wrong[0]}` of layers that peft takes for experts, such as '
            f'{min(moved)}, should be merged to be exported, since peft could not load it; use '
            f'`--merge-lora`')
    config.target_modules = {*named} - moved
    config.layers_to_transform = config.layers_pattern = None
    config.target_parameters = [*(config.target_parameters or ()),
                                *(f'{name}.weight' for name in sorted(moved))]
    for name in moved:
        rank, alpha = (values['default'] for values in (named[name].r, named[name].lora_alpha))
        if rank != config.r or alpha != config.lora_alpha:
            pattern = rf'{name}(\.weight)?'
            config.rank_pattern[pattern], config.alpha_pattern[pattern] = rank, alpha
    return config


def _moves(model: PreTrainedModel, target: str) -> bool:
    """Whether peft would take a layer's name for that of experts in this model."""
    import peft
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    config = peft.LoraConfig(target_modules=[target])
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:  # without others, it names a part of a parameter
        return True
    return bool(config.target_parameters)


def load_merged(source: str, lora: Mapping[str, Any], state: Mapping[str, Tensor],
                hint: str) -> PreTrainedModel:
    """Load a model with an adapter merged into its weights, in float32, without peft's layers.

    If an embedding and an output head share a weight and one of them has an adapter, they are
    untied, and the model's config says so.

    Args:
        source: The base model.
        lora: See :func:`mmdpad.models.heads.lora.lora_config`.
        state: The adapter's weights, under the model's names.
        hint: What to do when the model's weights do not fit, for the error message.
    """
    model = load_pretrained(AutoModelForImageTextToText, source, hint, dtype=torch.float32)
    tuner = add_lora(model, lora)
    if tied_and_adapted(model):
        head = model.get_output_embeddings()
        head = getattr(head, 'base_layer', head)
        head.weight = nn.Parameter(head.weight.detach().clone())
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
    model.load_state_dict(state, strict=False)
    return tuner.merge_and_unload(safe_merge=True)


def import_adapter(folder: str, base: str | None, prefix: str) -> tuple[dict[str, Tensor], str]:
    """Convert the adapter in a folder to a checkpoint's ``state_dict``.

    Layer names from earlier versions of transformers are converted the way transformers converts
    complete checkpoints.

    Args:
        folder: A folder that peft wrote.
        base: The base model, of which only config.json is read; None for the one that
            adapter_config.json names.
        prefix: Prefix of the model's names in a checkpoint.

    Returns:
        The state, and the settings of ``model.policy`` that fit it, as code.

    Raises:
        FileNotFoundError: A file of the folder, or the base model, does not exist.
        ValueError: A policy does not support this kind of adapter, or its weights do not fit.
    """
    adapter = read_adapter(folder)
    if adapter.kind != 'LORA':
        raise ValueError(f'`peft_type` of {folder!r} should be LORA, the only kind of adapter '
                         f'that a policy can have, but is {adapter.kind!r}')
    base = base or adapter.base
    if base is None:
        raise ValueError(f'adapter_config.json of {folder!r} should name its base model '
                         f'(`base_model_name_or_path`), but does not; name it with `--base`')
    source = check_source('--base', base, EXAMPLE)
    with torch.device('meta'):
        model = AutoModelForImageTextToText.from_config(
            from_folder(AutoConfig, source, 'Name the base model of the adapter with `--base`'))
    given = {_present_name(model, name.removeprefix(_IN_PEFT)): value
             for name, value in _read_weights(adapter).items()}
    layers = {name.rpartition('.lora_')[0] for name in given if '.lora_' in name}
    lora = {**adapter.lora, **{
        entry: {pattern if any(matches_layer(pattern, layer) for layer in layers) else
                _present_name(model, pattern): value
                for pattern, value in adapter.lora[entry].items()}
        for entry in ('rank_pattern', 'alpha_pattern') if entry in adapter.lora}}
    lora = _with_targets(model, lora, layers)
    shapes = {f'{name[:-len(leaf)]}base_layer.{leaf}': value.shape
              for name, value in model.named_parameters(remove_duplicate=False)
              for leaf in [name.rpartition('.')[2]]}
    try:
        add_lora(model, lora)
    except ValueError as error:
        raise ValueError(f'The adapter in {folder!r} cannot be used by a policy: {error}'
                         ) from error
    # peft also saves the base weight of an adapted embedding or output head.
    given = {name: value for name, value in given.items() if shapes.get(name) != value.shape}
    names = _names_in_files(model)
    state = {names.get(name, name): value for name, value in given.items()}
    LoadReport.of(_adapter_weights(model), state, folder).settle(
        f'It should only hold the adapter that its adapter_config.json describes, for a model '
        f'like {source!r}')
    state = {prefix + name: value for name, value in state.items()}
    settings = f'pretrained={source!r}, lora={as_code(lora)}'
    return {**state, _IN_POLICY + SCALING: adapter_scaling(model)}, settings


def _read_weights(adapter: AdapterFolder) -> dict[str, Tensor]:
    paths = [adapter.path / name for name in WEIGHTS]
    path = next((path for path in paths if path.is_file()), paths[0])
    return read_state_dict(str(path), 'It should be beside adapter_config.json')


def _present_name(model: PreTrainedModel, name: str) -> str:
    """Translate a name from an earlier version of transformers to the current one."""
    renamings = [entry for entry in get_model_conversion_mapping(model)
                 if isinstance(entry, WeightRenaming)]
    return rename_source_key(name, renamings, [])[0]


def _with_targets(model: PreTrainedModel, lora: Mapping[str, Any],
                  layers: set[str]) -> dict[str, Any]:
    """Find settings whose targets match exactly the layers of an adapter.

    Tries the adapter's own ``target_modules`` (whose patterns may use outdated names), the last
    parts of the layers' names and the names in :data:`REACHES`; if none match, takes all names.
    ``target_parameters`` that are the weights of linear layers become targets, too. Of
    ``exclude_modules``, what matches nothing is left out; what leaves out all layers of a kind is
    added.
    """
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    parameters = [name for name in lora.get('target_parameters') or ()
                  if not any(names_layer([name], f'{linear}.weight') for linear in linears)]
    result: dict[str, Any] = {name: value for name, value in lora.items()
                              if name != 'target_parameters'}
    if outdated := unknown_exclusions(model, lora):
        excluded = result.pop('exclude_modules')
        kept = [] if isinstance(excluded, str) else [
            name for name in excluded if name not in outdated]
        result |= dict(exclude_modules=kept) if kept else {}
    if parameters:
        result['target_parameters'] = parameters
        # Of experts and routers.
        own = {name for name in layers if name in linears}
    else:
        own = layers
    asked = lora.get('target_modules') or []
    if not isinstance(asked, str):
        asked = [name for name in asked if any(names_layer([name], layer) for layer in own)]
    last = sorted({name.rpartition('.')[2] for name in own})
    result['target_modules'] = next(
        (targets for targets in (asked, last, *REACHES)
         if _reached(model, {**result, 'target_modules': targets}) == own), sorted(own))
    if numbers := missed_layers(model, layers, result):
        result['exclude_modules'] = exclusion_of(model, numbers, result)
    return result


def _reached(model: PreTrainedModel, lora: Mapping[str, Any]) -> set[str]:
    from peft.tuners.tuners_utils import check_target_module_exists
    try:
        config = lora_config(lora, family_of(model))
    except ValueError:  # reported when the adapter is added to the model
        return set()
    return {name for name, _ in model.named_modules()
            if name and check_target_module_exists(config, name)}


def _names_in_files(model: PreTrainedModel) -> dict[str, str]:
    """Map names of an adapter's weights in peft's files to names in the model."""
    from peft import get_peft_model_state_dict
    return get_peft_model_state_dict(model, {name: name for name in model.state_dict()},
                                     save_embedding_layers=False)


def _adapter_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
