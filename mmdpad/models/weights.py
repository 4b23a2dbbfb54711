# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Reads weights without running code in the file, and loads them completely or not at all.

Importing this module makes mmengine read files the same way (``load_from``, ``--resume``,
``init_cfg``).
"""

from __future__ import annotations

import os.path as osp
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn
from unittest.mock import patch

import torch
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, dynamic_module_utils

from mmdpad.utils.safe_pickle import LOAD_ERRORS

_SHOWN = 4
# Parts of names (each after a dot) that show a wrapped model was saved -> hint.
_WRAPPERS = {
    '._orig_mod.': "`_orig_mod.` is torch.compile's: save the model under it again, or take the "
                   'part out of the names',
    '._fsdp_wrapped_module.': "`_fsdp_wrapped_module.` is FSDP's: save the full state of the "
                              'model again, or take the part out of the names',
    '.lora_': "They hold an unmerged adapter: merge it (peft's `merge_and_unload()`) and save the "
              'model again',
    '.base_layer.': 'They belong to an unmerged adapter: merge it (peft\'s `merge_and_unload()`) '
                    'and save the model again',
    '.base_model.model.': "`base_model.model.` is peft's: save the model under it again, or take "
                          'the part out of the names',
    '.module.': "`module.` is torch's DataParallel's: save the model under it again, or take the "
                'part out of the names'}


def read_state_dict(path: str, hint: str) -> dict[str, Tensor]:
    """Read a state dict from a ``.safetensors`` file or one written by ``torch.save``.

    A dict that holds the weights under 'state_dict' or 'model' is unwrapped.

    Args:
        path: The file; '~' is expanded.
        hint: What to do when the file cannot be used, for the error message.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: See :func:`load_safe`; or the file does not map names to tensors.
    """
    path = osp.expanduser(path)
    if not osp.isfile(path):
        raise FileNotFoundError(f'Weights file {path!r} does not exist. {hint}')
    try:
        state = _load_safetensors(path) if path.endswith('.safetensors') else load_safe(path)
    except ValueError as error:
        raise ValueError(f'{error}. {hint}') from error
    for key in ('state_dict', 'model'):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not (isinstance(state, Mapping) and state
            and all(isinstance(value, Tensor) for value in state.values())):
        raise ValueError(f'Weights file {path!r} should map names to tensors, but holds '
                         f'{type(state).__name__}. {hint}')
    return dict(state)


def read_checkpoint(path: str | None, hint: str, allow_random: bool) -> dict[str, Tensor] | None:
    """As :func:`read_state_dict`, but return None without a path if random weights are allowed.

    Raises:
        FileNotFoundError, ValueError: See :func:`read_state_dict`.
        ValueError: There is no path, and random weights are not allowed.
    """
    if path is not None:
        return read_state_dict(path, hint)
    if not allow_random:
        raise ValueError(f'`checkpoint` should be a file, but got None. {hint}, or set '
                         f'`allow_random=True` to use random weights in a smoke test')
    return None


@dataclass(frozen=True)
class LoadReport:
    """How the weights in a file or folder fit a model.

    Attributes:
        source: The file, folder or hub name.
        loaded: Number of tensors that fit.
        missing: Names that only the model has.
        unexpected: Names that only the source has.
        misshapen: Names with both shapes, ``'NAME (2,) instead of (3,)'``.
    """

    source: str
    loaded: int
    missing: Sequence[str] = ()
    unexpected: Sequence[str] = ()
    misshapen: Sequence[str] = ()

    @property
    def problems(self) -> str:
        """Counts and first names of the tensors that do not fit; empty if all do."""
        found = (_summary('missing', self.missing), _summary('unexpected', self.unexpected),
                 _summary('of another shape', self.misshapen))
        return '; '.join(filter(None, found))

    @classmethod
    def of(cls, module: nn.Module | Mapping[str, Tensor], state: Mapping[str, Tensor],
           source: str) -> LoadReport:
        """Compare a module's state with another one, without loading anything."""
        own = module.state_dict() if isinstance(module, nn.Module) else module
        misshapen = [f'{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}'
                     for name, value in state.items()
                     if name in own and value.shape != own[name].shape]
        missing = [name for name in own if name not in state]
        return cls(source, len(own) - len(missing) - len(misshapen), missing,
                   [name for name in state if name not in own], misshapen)

    @classmethod
    def of_loading(cls, model: PreTrainedModel, info: Mapping[str, Any],
                   source: str) -> LoadReport:
        """Make the report of ``from_pretrained(..., output_loading_info=True)``."""
        misshapen = [f'{name} {tuple(given)} instead of {tuple(own)}'
                     for name, given, own in sorted(info['mismatched_keys'])]
        return cls(source, len(model.state_dict()) - len(info['missing_keys']) - len(misshapen),
                   sorted(info['missing_keys']), sorted(info['unexpected_keys']), misshapen)

    def refusal(self, hint: str) -> str:
        """The error message for weights that do not fit. A name that reveals the cause replaces
        ``hint`` with a more specific one."""
        hint = next((advice for part, advice in _WRAPPERS.items()
                     if any(part in f'.{name}' for name in self.unexpected)), hint)
        return (f'The weights in {self.source!r} do not fit the model: {self.problems}. {hint}')

    def settle(self, hint: str) -> None:
        """Log the report of weights that fit, or refuse them.

        Raises:
            ValueError: A tensor is missing, unexpected or of another shape.
        """
        if self.problems:
            raise ValueError(self.refusal(hint))
        print_log(f'{self.loaded} tensors loaded from {self.source!r}; none missing, unexpected '
                  f'or of another shape', logger='current')


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: str, hint: str) -> None:
    """Copy ``state`` into ``module``. All names and shapes must match; dtypes are converted.

    Raises:
        ValueError: The weights do not fit. The message counts the missing, unexpected and
            misshapen tensors and names the first few of each.
    """
    LoadReport.of(module, state, path).settle(hint)
    module.load_state_dict(state)


def load_pretrained(model_class: Any, source: str, hint: str,
                    **arguments: Any) -> PreTrainedModel:
    """Load a transformers model with all its weights, by ``from_pretrained``.

    Args:
        model_class: A model class of transformers.
        source: A folder in Hugging Face format, or a hub name, see :func:`.sources.check_source`.
        hint: What to do when the weights do not fit, for the error message.
        **arguments: Arguments of ``from_pretrained``.

    Raises:
        ValueError: Weights are missing, unexpected or of another shape; or see
            :func:`from_folder`.
    """
    model, info = from_folder(model_class, source, hint, output_loading_info=True,
                              ignore_mismatched_sizes=True, **arguments)
    LoadReport.of_loading(model, info, source).settle(hint)
    return model


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, at most 300 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def _load_safetensors(path: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(f'Weights file {path!r} should be a complete safetensors file, but cannot '
                         f'be read as one: {first_line(error)}') from error


def load_safe(path: str, map_location: Any = 'cpu', mmap: bool = True) -> Any:
    """Load a file of ``torch.save`` that holds only tensors and plain data.

    Pickles can run code; this function never does, whatever torch's environment variables
    say.

    Args:
        path: The file.
        map_location: See ``torch.load``.
        mmap: Leave tensors in the file until they are used, where the format allows it.

    Raises:
        ValueError: The file is damaged or asks for anything else, such as code. The message names
            it.
    """
    try:
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError('it is compressed, which torch.save never does')
        return torch.load(path, map_location=map_location, weights_only=True,
                          mmap=mmap and is_zip)
    except (*LOAD_ERRORS, RuntimeError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f'File {path!r} should hold tensors and plain data as torch.save writes '
                         f'them, but {fault_of(error)}; use another file, or, if you trust this '
                         'one, save only its `state_dict`') from error


def fault_of(error: Exception) -> str:
    """Describe why a file cannot be read, without torch's advice to run what is in it."""
    if found := re.search(r'GLOBAL (\S+)', str(error)):
        return f'asks for {found[1]}, which could run code and is not loaded'
    if 'custom code' in str(error):
        return 'needs custom Python code, which is never run'
    if isinstance(error, pickle.UnpicklingError):
        return 'cannot be read (damaged, truncated, or another kind of file)'
    return f'cannot be read (damaged or truncated): {first_line(error)}'


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location: Any = None) -> Any:
    """mmengine's file loader, by :func:`load_safe`; not memory-mapped, since a run writes there."""
    filename = osp.expanduser(filename)
    if not osp.isfile(filename):
        raise FileNotFoundError(f'Checkpoint {filename!r} does not exist; correct the path')
    return without_config(load_safe(filename, map_location, mmap=False))


def without_config(checkpoint: Any) -> Any:
    """Remove ``meta['config']``, the config's text in files from mmcv, which resuming does not
    need."""
    if isinstance(checkpoint, dict) and isinstance(meta := checkpoint.get('meta'), dict):
        meta.pop('config', None)
    return checkpoint


def from_folder(loader: Any, source: str, hint: str, **arguments: Any) -> Any:
    """Call transformers' ``loader.from_pretrained(source)`` without running code from a folder or
    the hub, and without asking whether to run it.

    Raises:
        ValueError: The model needs that code, or a file is damaged or holds something else.
    """
    try:
        return loader.from_pretrained(source, trust_remote_code=False, **arguments)
    except (*LOAD_ERRORS, RuntimeError, SafetensorError) as error:
        raise ValueError(f'{source!r} cannot be loaded by {loader.__name__}: it '
                         f'{fault_of(error)}. {hint}') from error


@contextmanager
def remote_code_refused() -> Iterator[None]:
    """Keep transformers from running code from a folder, or asking to, within the block."""
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise ValueError('it needs custom Python code, which is never run; use a model that '
                         'needs none')

    with patch.multiple(dynamic_module_utils, TIME_OUT_REMOTE_CODE=0, _raise_timeout_error=refuse,
                        get_class_in_module=refuse):
        yield


def _summary(what: str, names: Iterable[str]) -> str:
    names = list(names)
    if not names:
        return ''
    more = f', and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
    return f'{len(names)} {what} ({", ".join(names[:_SHOWN])}{more})'
