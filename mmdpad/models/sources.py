# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Finds models in Hugging Face format, by folder or hub name, and reads their JSON files."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from transformers import PreTrainedConfig
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from mmdpad.utils.safe_pickle import LOAD_ERRORS

from .adapter_folder import find_adapter
from .folder_files import ADAPTER, CONFIG, adapter_problems, file_problems, load_json
from .weights import fault_of, first_line

_FOLDERS = ('checkpoints', 'data', 'outputs', 'work_dirs')


def is_hub_name(value: str) -> bool:
    """Whether a string may name a model on the hub.

    That is ORG/NAME, where ORG is neither a folder in the working directory nor one that the
    configs use. Anything else is a path, even if it does not exist, since anyone can upload a model
    under any name.
    """
    organization = value.partition('/')[0]
    return bool(re.fullmatch(r'\w[\w.-]*/\w[\w.-]*', value, re.ASCII)
                and organization not in _FOLDERS and not Path(organization).is_dir())


def find_folder(source: str) -> Path | None:
    """Find the folder that a model is loaded from: a local one, or one in the hub's cache."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if is_hub_name(source):
        cached = try_to_load_from_cache(source, CONFIG)
        if isinstance(cached, str):
            return Path(cached).parent
    return None


def check_source(name: str, value: str, example: str, weights: bool = True,
                 processor: bool = True, tokenizer: bool = True) -> str:
    """Run :func:`find_model`, then :func:`check_files`.

    Args:
        name, value, example: See :func:`find_model`.
        weights, processor, tokenizer: See :func:`check_files`.

    Returns:
        The argument for ``from_pretrained``.

    Raises:
        FileNotFoundError, ValueError: See both.
    """
    source, folder = find_model(name, value, example)
    check_files(source, folder, weights, processor, tokenizer)
    return source


def find_model(name: str, value: str, example: str) -> tuple[str, Path]:
    """Return the argument for ``from_pretrained``, and the folder of its config.json.

    The hub is only contacted for a hub name (:func:`is_hub_name`): for config.json, and for an
    adapter beside it. With ``HF_HUB_OFFLINE=1``, only its cache is searched.

    Args:
        name: The config key, for the error message.
        value: Its value, a folder or a hub name.
        example: A hub name of such a model, for the error message.

    Raises:
        FileNotFoundError: The path does not exist or has no config.json (for an adapter's folder,
            the message explains how to use it), or the hub does not have the model.
    """
    wanted = (f'`{name}` should be a folder in Hugging Face format (with config.json, weights and '
              f'the files of tokenizer and processor) or a hub name such as {example}')
    if is_hub_name(value):
        try:
            folder = Path(hf_hub_download(value, CONFIG)).parent
            find_adapter_config_file(value)  # downloads it to the same folder, if there is one
        except (OSError, ValueError, EntryNotFoundError) as error:
            with suppress(OSError, ValueError, EntryNotFoundError):
                hf_hub_download(value, ADAPTER)
            _refuse_adapter(wanted, value)
            offline = 'HF_HUB_OFFLINE is set' if is_offline_mode() else first_line(error)
            raise FileNotFoundError(
                f'{wanted}, but {value!r} is neither a folder here nor in the hub cache, and '
                f'cannot be downloaded ({offline}); correct the path, or run `hf download {value}` '
                f'where the hub can be reached') from error
        return value, folder
    path = Path(value).expanduser()
    if not (path / CONFIG).is_file():
        _refuse_adapter(wanted, value)
        hint = how_to_get(path, 'download the model there')
        raise FileNotFoundError(
            f'{wanted}, but {str(path)!r} '
            f'{"has no config.json" if path.exists() else "does not exist"}; '
            f'{hint}, or set `{name}`')
    return str(path), path


def how_to_get(path: Path, otherwise: str) -> str:
    """What to do about a missing folder: ``otherwise``, unless it is one of mmdpad's own."""
    return ('the wheel of mmdpad leaves it out: run this in a checkout' if '.mim' in path.parts
            else otherwise)


def check_files(source: str, folder: Path, weights: bool = True, processor: bool = True,
                tokenizer: bool = True) -> None:
    """Check the files of a model before weights are read.

    Args:
        source, folder: What :func:`find_model` returns.
        weights, processor, tokenizer: Whether these are required, see
            :func:`.folder_files.file_problems`. For a hub name they are only required offline,
            since they are downloaded otherwise.

    Raises:
        ValueError: Files are missing or damaged, or an adapter lies beside the weights.
    """
    if is_hub_name(source) and not is_offline_mode():
        problems = list(adapter_problems(folder))
    else:
        problems = list(file_problems(folder, weights, processor, tokenizer))
    if problems:
        raise ValueError('\n'.join(problems))


def _refuse_adapter(wanted: str, value: str) -> None:
    if adapter := find_adapter(value):
        raise FileNotFoundError(f'{wanted}, but {value!r} holds only an adapter; {adapter.advice}')


def read_config(source: str) -> dict[str, Any]:
    """Read the config.json of a folder or a hub name.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        return dict(PreTrainedConfig.get_config_dict(source)[0])
    except (*LOAD_ERRORS, RecursionError) as error:
        raise ValueError(f'config.json of {source!r} {fault_of(error)}; download it again'
                         ) from error


def read_json(source: str, name: str) -> dict[str, Any]:
    """Read a JSON file of a folder or a hub name; return an empty dict if it does not exist.

    Raises:
        ValueError: See :func:`.folder_files.load_json`.
    """
    path = cached_file(source, name, _raise_exceptions_for_missing_entries=False,
                       _raise_exceptions_for_connection_errors=False)
    return load_json(Path(path)) if path else {}
