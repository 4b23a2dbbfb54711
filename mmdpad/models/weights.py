# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Weights from files: read without running code that a file may carry, and loaded whole or not."""

from __future__ import annotations

import os.path as osp
import pickle
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

_SHOWN = 4


def read_state_dict(path: str, remedy: str) -> dict[str, Tensor]:
    """Read a state dict from a ``.safetensors`` file or one written by ``torch.save``.

    A dict that holds the weights under 'state_dict' or 'model' is unwrapped.

    Args:
        path: The file; '~' is expanded.
        remedy: What to do when the file cannot be used, for the error message.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file is damaged, holds code, or is no mapping of names to tensors.
    """
    path = osp.expanduser(path)
    if not osp.isfile(path):
        raise FileNotFoundError(f'Weights file {path!r} does not exist. {remedy}')
    try:
        state = _load(path)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f'Weights file {path!r} should be a PyTorch state dict or a safetensors '
                         f'file, but it cannot be read as either (damaged, a download that was cut '
                         f'short, or a file with code in it): {first_line(error)}. {remedy}'
                         ) from error
    for key in ('state_dict', 'model'):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not (isinstance(state, Mapping) and state
            and all(isinstance(value, Tensor) for value in state.values())):
        raise ValueError(f'Weights file {path!r} should hold names with tensors, but holds '
                         f'{type(state).__name__}. {remedy}')
    return dict(state)


def read_checkpoint(path: str | None, remedy: str, allow_random: bool) -> dict[str, Tensor] | None:
    """:func:`read_state_dict` for a model that has to have weights; None, for random ones, is what
    no path gives where that is allowed.

    Raises:
        FileNotFoundError, ValueError: As there.
        ValueError: No path, and random weights are not allowed.
    """
    if path is not None:
        return read_state_dict(path, remedy)
    if not allow_random:
        raise ValueError(f'`checkpoint` should be a file, but got None. {remedy}, or set '
                         f'`allow_random=True` to try things out with random weights')
    return None


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: str, remedy: str) -> None:
    """Copy ``state`` into ``module``; every name and shape has to agree, types are converted.

    Raises:
        ValueError: The weights do not fit; what is missing, unexpected or of another shape is
            counted and the first few of each are named.
    """
    own = module.state_dict()
    problems = [
        _summary('missing', [name for name in own if name not in state]),
        _summary('unexpected', [name for name in state if name not in own]),
        _summary('of another shape', [
            f'{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}'
            for name, value in state.items() if name in own and value.shape != own[name].shape]),
    ]
    if any(problems):
        raise ValueError(f'Weights file {path!r} does not fit the model: '
                         f'{"; ".join(filter(None, problems))}. {remedy}')
    module.load_state_dict(state)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, at most 300 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def _load(path: str) -> object:
    if path.endswith('.safetensors'):
        from safetensors import SafetensorError
        from safetensors.torch import load_file
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    return torch.load(path, map_location='cpu', weights_only=True)


def _summary(what: str, names: Iterable[str]) -> str:
    names = list(names)
    if not names:
        return ''
    more = f', and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
    return f'{len(names)} {what} ({", ".join(names[:_SHOWN])}{more})'
