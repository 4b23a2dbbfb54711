# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Weights that published files hold with their last two dimensions swapped.

The files of Qwen3-VL-MoE hold experts as (experts, in, out), and transformers 5 as (experts, out,
in). It transposes what it reads if the shape differs, and saves what it holds; other programs
expect the layout of the published files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    get_model_conversion_mapping,
)
from transformers.core_model_loading import Transpose, WeightConverter, WeightTransform

from .weights import from_folder


def swapped_weights(model: PreTrainedModel) -> list[str]:
    """List the weights of a model that published files hold transposed; none for most families.

    Names end as transformers names them, also below an adapter.
    """
    ends = tuple(pattern for entry in get_model_conversion_mapping(model) if _swaps(entry)
                 for pattern in entry.target_patterns)
    return [name for name, _ in model.named_parameters() if name.endswith(ends)]


def save_as_published(model: PreTrainedModel, folder: Path, **arguments: Any) -> None:
    """``save_pretrained``, under the names and in the layout of the published files."""
    if swapped := swapped_weights(model):
        state = model.state_dict()
        for name in swapped:
            state[name] = state[name].transpose(-2, -1)  # copied as it is written
        # transformers would swap them back; these families have no other names.
        arguments.update(state_dict=state, save_original_format=False)
    model.save_pretrained(folder, **arguments)


def check_layout(model_class: type[PreTrainedModel], source: str, hint: str) -> None:
    """Check that transformers can tell in which layout a folder's weights are.

    Args:
        model_class: The class of transformers.
        source: Folder or hub name, of which only config.json is read.
        hint: What to do when config.json cannot be used, for the error message.

    Raises:
        ValueError: A weight that published files hold transposed is square, so its shape does not
            show whether it is.
    """
    shapes = _swapped_shapes(model_class, from_folder(AutoConfig, source, hint))
    square = [f'{name} {tuple(shape)}' for name, shape in shapes.items() if shape[-2] == shape[-1]]
    if square:
        raise ValueError(
            f'Experts should not be square, since published files hold them transposed and '
            f'transformers recognizes that by the shape, but by {Path(source) / "config.json"} '
            f'{len(square)} are ({square[0]}, ...); use a model with another '
            f'`moe_intermediate_size`')


def read_mapped(model_class: type[PreTrainedModel], config: PreTrainedConfig,
                files: Sequence[Path]) -> dict[str, Tensor] | None:
    """Map the tensors of safetensors files from the files, for ``state_dict`` of
    ``from_pretrained``, in the layout of transformers, which would otherwise copy weights to
    transpose them; None if it would not."""
    shapes = _swapped_shapes(model_class, config)
    if not shapes:
        return None
    state = {}
    for path in files:
        with safe_open(path, 'pt') as file:
            for name in file.keys():  # noqa: SIM118
                value = file.get_tensor(name)
                swap = value.shape != shapes.get(name, value.shape)
                state[name] = value.transpose(-2, -1) if swap else value
    return state


def _swapped_shapes(model_class: type[PreTrainedModel],
                    config: PreTrainedConfig) -> dict[str, torch.Size]:
    """The shapes of :func:`swapped_weights` in a model."""
    if not any(map(_swaps, get_checkpoint_conversion_mapping(config.model_type) or ())):
        return {}  # saves the time to build it
    with torch.device('meta'):
        model = model_class(config)
    return {name: model.get_parameter(name).shape for name in swapped_weights(model)}


def _swaps(entry: WeightTransform) -> bool:
    return isinstance(entry, WeightConverter) and any(
        isinstance(operation, Transpose) and operation.check_dims
        for operation in entry.operations)

