# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Reads folders with a peft adapter, without peft."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from .folder_files import ADAPTER, CONFIG, load_json

WEIGHTS = ('adapter_model.safetensors', 'adapter_model.bin')
# Shown first; other settings follow.
_FIRST = ('r', 'lora_alpha', 'target_modules')
# Settings about the file or training only, and options of features that an adapter does not use.
_LEFT_OUT = ('peft_type', 'task_type', 'auto_mapping', 'peft_version', 'base_model_name_or_path',
             'revision', 'inference_mode', 'runtime_config', 'lora_dropout', 'eva_config',
             'corda_config', 'lora_ga_config', 'loftq_config', 'megatron_core',
             'qalora_group_size')
# Initializations that leave the base weights unchanged.
_PLAIN_STARTS = (True, False, 'gaussian', 'eva', 'orthogonal')


@dataclass(frozen=True)
class AdapterFolder:
    """The contents of adapter_config.json.

    Attributes:
        path: The folder.
        kind: ``peft_type``, for example 'LORA'.
        base: The base model, a folder or a hub name; None if the file does not name one.
        lora: The settings as ``model.policy.lora`` takes them, without empty ones and those that
            matter only for training.
    """

    path: Path
    kind: str
    base: str | None
    lora: Mapping[str, Any]

    @property
    def advice(self) -> str:
        """How to use the adapter in a config."""
        base = repr(self.base) if self.base else 'its base model'
        return (f'set `model.policy.pretrained` to {base}, `model.policy.lora` to '
                f'{as_code(self.lora)}, and `load_from` to OUT.pth of `python '
                f'tools/model_converters/from_hf.py {self.path} OUT.pth`')


def find_adapter(source: str) -> AdapterFolder | None:
    """Find an adapter without a config.json, in a folder or in the hub's cache.

    Raises:
        ValueError: adapter_config.json is damaged.
    """
    path: Any = Path(source).expanduser() / ADAPTER
    if not path.is_file():
        try:
            path = try_to_load_from_cache(source, ADAPTER)
        except ValueError:  # not a hub name
            return None
    if not isinstance(path, str | Path) or Path(path).with_name(CONFIG).is_file():
        return None
    return read_adapter(Path(path).parent)


def read_adapter(folder: str | Path) -> AdapterFolder:
    """Read a folder's adapter_config.json.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged.
    """
    entries = load_json(Path(folder) / ADAPTER)
    settings = {name: value for name, value in sorted(entries.items())
                if name not in _LEFT_OUT and value not in (None, False, [], {}, 'none')}
    if settings.get('init_lora_weights') in _PLAIN_STARTS:
        del settings['init_lora_weights']
    settings = {name: settings[name] for name in _FIRST if name in settings} | settings
    base = entries.get('base_model_name_or_path')
    return AdapterFolder(Path(folder), str(entries.get('peft_type')),
                         base if isinstance(base, str) and base else None, settings)


def as_code(lora: Mapping[str, Any]) -> str:
    """Settings as written in a config: ``dict(r=8, lora_alpha=16)``."""
    return f'dict({", ".join(f"{name}={value!r}" for name, value in lora.items())})'
