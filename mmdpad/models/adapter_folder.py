# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Folders that hold an adapter of peft; what can be said about one without peft."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

CONFIG = 'adapter_config.json'
WEIGHTS = ('adapter_model.safetensors', 'adapter_model.bin')
# What a reader should see first; everything else that is set follows.
_FIRST = ('r', 'lora_alpha', 'target_modules')
# About the file, about training alone, and settings of settings that are not used.
_LEFT_OUT = ('peft_type', 'task_type', 'auto_mapping', 'peft_version', 'base_model_name_or_path',
             'revision', 'inference_mode', 'runtime_config', 'lora_dropout', 'eva_config',
             'corda_config', 'lora_ga_config', 'loftq_config', 'megatron_core',
             'qalora_group_size')
# Ways to start an adapter that leave the weights under it as they are.
_PLAIN_STARTS = (True, False, 'gaussian', 'eva', 'orthogonal')


@dataclass(frozen=True)
class AdapterFolder:
    """What adapter_config.json says.

    Attributes:
        path: The folder.
        kind: ``peft_type``, for example 'LORA'.
        base: The model that the adapter is for, a folder or a hub name; None if it does not say.
        lora: The settings as ``model.policy.lora`` takes them, empty ones and those
            that matter to training alone left out.
    """

    path: Path
    kind: str
    base: str | None
    lora: Mapping[str, Any]

    @property
    def advice(self) -> str:
        """How a config uses the adapter."""
        base = repr(self.base) if self.base else 'its base model'
        return (f'set `model.policy.pretrained` to {base}, `model.policy.lora` to '
                f'{as_code(self.lora)}, and `load_from` to OUT.pth of `python '
                f'tools/model_converters/from_hf.py {self.path} OUT.pth`')


def find_adapter(source: str) -> AdapterFolder | None:
    """The adapter in a folder, or in the cache of the hub, that has no config.json.

    Raises:
        ValueError: adapter_config.json is damaged.
    """
    path: Any = Path(source).expanduser() / CONFIG
    if not path.is_file():
        try:
            path = try_to_load_from_cache(source, CONFIG)
        except ValueError:  # no name of the hub
            return None
    if not isinstance(path, str | Path) or Path(path).with_name('config.json').is_file():
        return None
    return read_adapter(Path(path).parent)


def read_adapter(folder: str | Path) -> AdapterFolder:
    """What adapter_config.json of a folder says.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is no JSON object.
    """
    path = Path(folder) / CONFIG
    try:
        entries = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, dict):
        raise ValueError(f'{path} should be a JSON object, as peft writes it, but is none; copy '
                         f'it again')
    settings = {name: value for name, value in sorted(entries.items())
                if name not in _LEFT_OUT and value not in (None, False, [], {}, 'none')}
    if settings.get('init_lora_weights') in _PLAIN_STARTS:
        del settings['init_lora_weights']
    settings = {name: settings[name] for name in _FIRST if name in settings} | settings
    base = entries.get('base_model_name_or_path')
    return AdapterFolder(Path(folder), str(entries.get('peft_type')),
                         base if isinstance(base, str) and base else None, settings)


def as_code(lora: Mapping[str, Any]) -> str:
    """Settings as a config has them: ``dict(r=8, lora_alpha=16)``."""
    return f'dict({", ".join(f"{name}={value!r}" for name, value in lora.items())})'
