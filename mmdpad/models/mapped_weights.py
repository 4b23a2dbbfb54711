# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Weights that stay in their files until the model is sharded, so that no process reads all of
them."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.logging import print_log
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from .folder_files import read_header, weight_files
from .published_layout import read_mapped
from .sources import find_folder
from .weights import LoadReport, from_folder, load_pretrained

_STORED = 'stored'  # attribute of a parameter: its values, mapped from a file
_FLOATS = dict(F64=torch.float64, F32=torch.float32, F16=torch.float16, BF16=torch.bfloat16)
_leaves = ContextVar('_leaves', default=False)


@contextmanager
def weights_left_in_files() -> Iterator[None]:
    """Let :func:`load_mapped` map weights instead of reading them, within the block."""
    token = _leaves.set(True)
    try:
        yield
    finally:
        _leaves.reset(token)


def load_mapped(model_class: Any, source: str, hint: str, dtype: torch.dtype,
                needs_values: bool = False, **arguments: Any) -> PreTrainedModel:
    """As :func:`.weights.load_pretrained`; within :func:`weights_left_in_files`, leave the weights
    in their safetensors files.

    A weight of the files' dtype is mapped from its file. Any other has no values, only shape and
    dtype (reading it gives NaN), until :func:`take_mapped`.

    Args:
        model_class, source, hint: See :func:`.weights.load_pretrained`.
        dtype: The dtype of the weights.
        needs_values: Whether the values are needed before the model is sharded.
        **arguments: Further arguments of ``from_pretrained``; with any, the weights are read.

    Raises:
        ValueError: See :func:`.weights.load_pretrained`; or processes on several machines find
            different files.
    """
    if not _leaves.get():
        return load_pretrained(model_class, source, hint, dtype=dtype, **arguments)
    obstacle = 'quantized weights cannot stay in their files' if arguments else None
    if not obstacle:
        stored, obstacle = _stored_dtype(model_class, source, hint)
        if needs_values and stored != dtype:
            obstacle = obstacle or (
                f"the adapter (`use_dora`) starts from the weights' values as {_name(dtype)}, and "
                f'the files hold {_name(stored)}; set `model.policy.dtype={_name(stored)!r}`')
    if not obstacle:
        model = _load(model_class, source, hint, stored)
        if not any(getattr(model, f'_keep_in_fp32_modules{end}', None) for end in ('', '_strict')):
            _leave(model, stored, dtype)
            return model
        obstacle = f'transformers keeps some weights of {model_class.__name__} in float32'
    model = load_pretrained(model_class, source, hint, dtype=dtype, **arguments)
    size = sum(parameter.nbytes for parameter in model.parameters()) / 1e9
    print_log(f'Each of {get_world_size()} processes reads all weights of {source!r} into memory '
              f'({size:.1f} GB, with a reference twice that), since {obstacle}',
              logger='current', level=logging.WARNING)
    return model


def _load(model_class: Any, source: str, hint: str, dtype: torch.dtype) -> PreTrainedModel:
    folder = find_folder(source)
    config = from_folder(AutoConfig, source, hint)
    state = read_mapped(model_class, config, weight_files(folder or Path(source)))
    if state is None:
        return load_pretrained(model_class, source, hint, dtype=dtype)
    model, info = model_class.from_pretrained(
        None, config=config, state_dict=state, dtype=dtype, output_loading_info=True,
        ignore_mismatched_sizes=True)
    LoadReport.of_loading(model, info, source).settle(hint)
    return model


def _stored_dtype(model_class: Any, source: str, hint: str) -> tuple[Any, str | None]:
    """The dtype that holds all values of the files, or why they cannot be mapped."""
    folder = find_folder(source)
    if folder is None or not all(path.is_file() for path in weight_files(folder) or [folder]):
        from_folder(model_class, source, hint, device_map='meta')  # downloads the files
        folder = find_folder(source)
    files = weight_files(folder or Path(source))
    if any(path.suffix != '.safetensors' for path in files):
        return None, (f'{files[0].name} is not in safetensors format; save the model again as '
                      f'safetensors (`save_pretrained`), or use a folder that has them')
    if len(set(all_gather_object(_fingerprint(files)))) > 1:
        raise ValueError(f'{source!r} should hold the same weights on all machines, since each '
                         f'process reads only its shards, but the files differ; copy them from '
                         f'one machine to the others')
    names = {entry['dtype'] for path in files for entry in read_header(path).values()}
    if unknown := sorted(names - _FLOATS.keys()):
        return None, f'the files hold values of the types {", ".join(unknown)}'
    return reduce(torch.promote_types, (_FLOATS[name] for name in names)), None


def _fingerprint(files: list[Path]) -> int:
    """A checksum of pieces of the files, in which other weights differ."""
    checksum = 0
    for path in files:
        size = path.stat().st_size
        with open(path, 'rb') as file:
            for start in range(0, size, max(size // 16, 1)):
                file.seek(start)
                checksum = zlib.crc32(file.read(4096), checksum)
    return checksum


def _leave(model: PreTrainedModel, stored: torch.dtype, dtype: torch.dtype) -> None:
    """Mark the weights as mapped from their files, with ``dtype`` as their own."""
    for parameter in model.parameters():
        setattr(parameter, _STORED, parameter.data)
        if parameter.dtype == stored != dtype:
            parameter.data = torch.full((), torch.nan, dtype=dtype).expand(parameter.shape)
    for config in (model.config, *(getattr(model.config, name) for name in
                                   model.config.sub_configs)):
        config.dtype = dtype


def mapped_twins(module: nn.Module) -> dict[int, nn.Parameter]:
    """A memo for ``copy.deepcopy`` with which the copy's weights are mapped from the same files."""
    twins = {}
    for parameter in module.parameters():
        if hasattr(parameter, _STORED):
            twins[id(parameter)] = twin = nn.Parameter(parameter.data, parameter.requires_grad)
            setattr(twin, _STORED, getattr(parameter, _STORED))
    return twins


def mapped_names(module: nn.Module) -> set[str]:
    """The names of weights that are in files, second names of tied weights included."""
    return {name for name, parameter in module.named_parameters(remove_duplicate=False)
            if hasattr(parameter, _STORED)}


def take_mapped(module: nn.Module) -> dict[str, Tensor]:
    """Move weights that are in files to the meta device.

    Returns:
        Their values by (first) name, mapped from the files, in the dtype of the files.
    """
    stored = {name: getattr(parameter, _STORED) for name, parameter in module.named_parameters()
              if hasattr(parameter, _STORED)}
    outlines: dict[nn.Parameter, nn.Parameter] = {}  # one for all names of a tied weight
    for part in module.modules():
        for name, own in list(part.named_parameters(recurse=False)):
            if hasattr(own, _STORED):
                if own not in outlines:
                    empty = torch.empty(own.shape, dtype=own.dtype, device='meta')
                    outlines[own] = nn.Parameter(empty, own.requires_grad)
                setattr(part, name, outlines[own])
    return stored


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')
