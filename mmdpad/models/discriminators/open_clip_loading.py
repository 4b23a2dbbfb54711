# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Builds an open_clip model with its preprocessing and tokenizer, or explains what is missing."""

from __future__ import annotations

import difflib
import logging
import os.path as osp
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import hf_hub_download, is_offline_mode
from huggingface_hub.errors import EntryNotFoundError
from mmengine.logging import print_log
from open_clip.factory import _find_checkpoint_in_dir
from safetensors import SafetensorError
from torch import nn

from mmdpad.models.weights import load_strictly, remote_code_refused

from .open_clip_weights import Weights, read_weights
from .preprocessing import for_any_shape
from .tokenizer_file import warn_of_other_tokens

_PRECISIONS = ('fp32', 'fp16', 'bf16', 'pure_fp16', 'pure_bf16')
_LOCAL, _HUB = 'local-dir:', 'hf-hub:'
_WEIGHT_FILES = ('*.safetensors', '*.bin', '*.pth')
_OFFLINE = ('Without access to the hub, download the weights on a machine that has it, and set '
            '`pretrained` to the file or `model_name` to "local-dir:PATH" of a folder with '
            'open_clip_config.json, the weights and, if the config names one, the tokenizer')
_FILE = ('A weights file should hold a state dict of exactly this architecture, under the names of '
         'open_clip, OpenAI, Long-CLIP or MobileCLIP (OpenAI\'s own .pt files are TorchScript: '
         'save `torch.jit.load(path).state_dict()` with torch.save and use that file)')


def load_open_clip(model_name: str,
                   pretrained: str | None,
                   precision: str = 'fp32',
                   allow_random: bool = False,
                   context_length: int | None = None,
                   quick_gelu: bool | None = None) -> tuple[nn.Module, Callable, Any]:
    """Load a model, its evaluation preprocessing (PIL image -> (3, S, S)) and its tokenizer.

    See :class:`CLIPDiscriminator` for the arguments. Weights in a file or folder must fit exactly:
    open_clip itself silently interpolates positions to another number. Checkpoint files are read
    with ``weights_only=True``; code in them is not run.

    Raises:
        ValueError: The architecture, tag or precision is unknown, no weights are named, or the
            weights in a file or folder cannot be read, do not fit, or were trained with another
            activation.
        FileNotFoundError: A folder, config or weights file does not exist.
        RuntimeError: open_clip cannot fetch, read or fit the config, weights or tokenizer.
    """
    check_precision(precision)
    model_name, pretrained, file = check_open_clip(model_name, pretrained, allow_random)
    if context_length is not None and (pretrained or model_name.startswith(_HUB)):
        raise ValueError(f'`context_length` should be left out where open_clip provides the '
                         f'weights, which have their own, but got {context_length} with '
                         f'{pretrained or model_name!r}; set it only for a weights file')
    weights = None if file is None else read_weights(file, _FILE)
    if quick_gelu is None:
        quick_gelu = _tag_wants_quick_gelu(model_name, pretrained) or None
    try:
        with (remote_code_refused(),
              nullcontext() if file is None else _without_word_of_random_weights()):
            tokenizer = open_clip.get_tokenizer(model_name, context_length=context_length)
            model, _, preprocess = open_clip.create_model_and_transforms(
                model_name,
                pretrained,
                precision=precision,
                load_weights=file is None,
                require_pretrained=file is None and not allow_random,
                pretrained_text=False,  # weights of the text tower only
                force_context_length=context_length,
                force_quick_gelu=bool(quick_gelu),
                **({} if quick_gelu is None else dict(quick_gelu=quick_gelu)))
    except (RuntimeError, ValueError, OSError, KeyError, AttributeError, StopIteration, EOFError,
            pickle.UnpicklingError, SafetensorError) as error:
        source = f' with weights {pretrained!r}' if pretrained else ''
        cause = ' '.join(f'{type(error).__name__}: {error}'.split())[:500]
        raise RuntimeError(f'The open_clip model {model_name!r}{source} cannot be loaded '
                           f'({cause}). {_OFFLINE}') from error
    if weights is not None:
        _load(model, weights, model_name, quick_gelu is not None)
    if _is_folder(model_name):
        warn_of_other_tokens(tokenizer, Path(model_name[len(_LOCAL):]))
    return model, for_any_shape(preprocess), tokenizer


def check_precision(precision: str) -> None:
    """Raise ValueError unless open_clip supports this precision."""
    if precision not in _PRECISIONS:
        raise ValueError(f'`precision` should be one of {_PRECISIONS}, but got {precision!r}')


@contextmanager
def _without_word_of_random_weights() -> Iterator[None]:
    """Keep open_clip from warning that it loaded no weights, since we load them right after."""
    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith('No pretrained weights loaded')

    root = logging.getLogger()  # open_clip logs to it
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


def _load(model: nn.Module, weights: Weights, model_name: str, activation_is_set: bool) -> None:
    """Load the weights of a file into a model, if they were trained in the same architecture."""
    state = weights.for_model(model)
    for name in ('positional_embedding', 'text.positional_embedding'):
        own = dict(model.named_parameters()).get(name)
        if own is not None and name in state and len(state[name]) != len(own):
            raise ValueError(
                f'{weights.path!r} has positions for texts of {len(state[name])} tokens, but the '
                f'model has them for {len(own)}; set `context_length={len(state[name])}`')
    quick = any(isinstance(module, open_clip.transformer.QuickGELU) for module in model.modules())
    if not (activation_is_set or quick) and weights.quick_gelu and not _is_folder(model_name):
        raise ValueError(
            f'{weights.path!r} was trained with QuickGELU ({weights.quick_gelu}), but '
            f'{model_name!r} uses GELU, which shifts every similarity; set `model_name` to '
            f'\'{model_name}-quickgelu\' or `quick_gelu=True` (or `quick_gelu=False` if you are '
            f'sure that it was not)')
    load_strictly(model, state, weights.path, _FILE)
    print_log(f'{model_name!r} with {weights.path!r} uses {"QuickGELU" if quick else "GELU"}'
              + ('' if activation_is_set or weights.quick_gelu or _is_folder(model_name) else
                 '; the file does not say whether it was trained with that (`quick_gelu` sets it)'),
              logger='current')


def _is_folder(model_name: str) -> bool:
    """Whether the model's config lies beside the weights, and so determines the activation."""
    return model_name.startswith(_LOCAL)


def check_open_clip(model_name: str, pretrained: str | None,
                    allow_random: bool = False) -> tuple[str, str | None, str | None]:
    """Check that a model exists, without loading anything.

    See :class:`CLIPDiscriminator` for the arguments.

    Returns:
        The model's name for open_clip; the tag of its weights, if open_clip provides them; and the
        file with its weights, if known.

    Raises:
        ValueError: The architecture or tag is unknown, or no weights are named.
        FileNotFoundError: A folder, config or weights file does not exist.
    """
    if model_name.startswith(_LOCAL):
        model_name, file = _check_folder(model_name, allow_random)
        return model_name, None, file
    if model_name.startswith(_HUB):
        return model_name, None, None  # the weights are in the same place
    model_name = model_name.replace('/', '-')
    _check_name(model_name)
    return model_name, *_check_pretrained(model_name, pretrained, allow_random)


def find_missing_download(model_name: str, tag: str | None) -> str | None:
    """Report weights that open_clip cannot download (``HF_HUB_OFFLINE``) and that are not in the
    hub's cache; None if there are none.

    Args:
        model_name, tag: As returned by :func:`check_open_clip`.
    """
    if not is_offline_mode() or not (tag or model_name.startswith(_HUB)):
        return None
    try:
        if tag:
            open_clip.download_pretrained(open_clip.get_pretrained_cfg(model_name, tag))
        else:
            hf_hub_download(model_name[len(_HUB):], 'open_clip_config.json')
    except (RuntimeError, OSError, EntryNotFoundError):
        return (f'The weights of {model_name!r} {f"with the tag {tag!r} " if tag else ""}are not '
                f'in the hub cache, and HF_HUB_OFFLINE is set. {_OFFLINE}')
    return None


def _check_folder(model_name: str, allow_random: bool) -> tuple[str, str | None]:
    """Check that a folder is complete; return its name with '~' expanded, and the weights file."""
    folder = Path(model_name[len(_LOCAL):]).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f'`model_name` names the folder {str(folder)!r}, which does not '
                                f'exist. {_OFFLINE}')
    if not (folder / 'open_clip_config.json').is_file():
        raise FileNotFoundError(f'Folder {str(folder)!r} has no open_clip_config.json. It should '
                                f'hold a model as open_clip saves it for the hub: that file, the '
                                f'weights and, if the config names one, the tokenizer')
    if not allow_random and not any(any(folder.glob(p)) for p in _WEIGHT_FILES):
        raise FileNotFoundError(f'Folder {str(folder)!r} has no weights file '
                                f'({", ".join(_WEIGHT_FILES)}). {_OFFLINE}')
    return f'{_LOCAL}{folder}', _find_checkpoint_in_dir(folder)


def _check_name(model_name: str) -> None:
    names = open_clip.list_models()
    if model_name not in names:
        close = difflib.get_close_matches(model_name, names, n=5, cutoff=0.3) or names[:5]
        raise ValueError(f'`model_name` should be a name in open_clip.list_models() ({len(names)} '
                         f'names, close ones: {", ".join(close)}), "{_LOCAL}PATH" or '
                         f'"{_HUB}ORG/REPO", but got {model_name!r}')


def _check_pretrained(model_name: str, pretrained: str | None,
                      allow_random: bool) -> tuple[str | None, str | None]:
    """Return the tag or the path of an existing file with '~' expanded; at most one is set."""
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if not pretrained:
        if allow_random:
            return None, None
        raise ValueError(f'`pretrained` should be a tag of {model_name} ({", ".join(tags)}) or a '
                         f'weights file, but got {pretrained!r}; set `allow_random=True` to use '
                         f'random weights in a smoke test')
    if open_clip.is_pretrained_cfg(model_name, pretrained):
        return pretrained, None
    path = osp.expanduser(pretrained)
    if not osp.isfile(path):
        raise FileNotFoundError(f'`pretrained` should be a tag of {model_name} ({", ".join(tags)}) '
                                f'or an existing weights file, but got {pretrained!r}')
    return None, path


def _tag_wants_quick_gelu(model_name: str, pretrained: str | None) -> bool:
    """Whether the weights with this tag were trained with QuickGELU; open_clip only warns."""
    config = open_clip.get_pretrained_cfg(model_name, pretrained) if pretrained else {}
    return bool(config.get('quick_gelu', False))
