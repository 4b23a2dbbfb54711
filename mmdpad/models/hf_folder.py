# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Exports trained policies as folders in Hugging Face format, and imports such folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from mmdpad.models.folder_files import ADAPTER, weight_file
from mmdpad.models.heads.policy_source import EXAMPLE, WEIGHTS_HINT
from mmdpad.models.heads.prompt_encoder import PromptEncoder
from mmdpad.models.heads.quantization import refuse_quantized
from mmdpad.models.heads.response_codec import GENERATION_CONFIG
from mmdpad.models.hf_adapter import check_adapter, import_adapter, load_merged, save_adapter
from mmdpad.models.published_layout import save_as_published
from mmdpad.models.sources import check_source, read_json
from mmdpad.models.weights import LoadReport, from_folder, load_pretrained, read_state_dict

SHARD_SIZE = '5GB'
_IN_CHECKPOINT = 'policy.model.'  # precedes transformers' names
_NOT_COPIED = ('*.safetensors', '*.safetensors.index.json', '*.bin', '*.bin.index.json', '*.pt',
               '*.pth', '*.gguf', '*.h5', '*.msgpack', 'README.md', '.*')
_HINT = ('The checkpoint should match this config: `model.policy` (`pretrained`, `lora`) as in '
         'the run that wrote it')


def export_policy(checkpoint: str, policy: Mapping[str, Any], folder: Path, *,
                  merge_lora: bool = False, dtype: str | None = None) -> None:
    """Fill a folder with the policy of a checkpoint.

    A full policy is written for ``from_pretrained`` of transformers and for vLLM: safetensors in
    shards of at most 5 GB, under the names and in the layout of the published files, with the start
    policy's config, tokenizer, processor and chat template. Its generation config names the end
    tokens that training used. An adapter is written for
    ``peft.PeftModel.from_pretrained``. Merging it into a tied embedding and output head unties
    them, and config.json says so.

    The checkpoint is memory-mapped, so this needs little more memory than one shard, or, to merge
    an adapter, than the start policy in float32.

    Args:
        checkpoint: A checkpoint that ``tools/train.py`` wrote.
        policy: ``model.policy`` of its config.
        folder: An empty folder.
        merge_lora: Merge the adapter into the base weights, in float32.
        dtype: Type of the weights in the folder; None for that of the checkpoint, or of
            ``policy`` if an adapter is merged.

    Raises:
        FileNotFoundError: The start policy or the checkpoint does not exist.
        ValueError: The checkpoint does not fit the config, or there is no adapter to merge.
    """
    lora = policy.get('lora')
    if merge_lora and lora is None:
        raise ValueError('`--merge-lora` should be given for a config with `model.policy.lora`, '
                         'but this one has none; leave it out')
    source = check_source('model.policy.pretrained', policy['pretrained'],
                          EXAMPLE, merge_lora, processor=False,
                          tokenizer=False)
    if merge_lora:
        refuse_quantized(source, 'for an adapter to be merged into them', 'name the unquantized '
                         'model (--cfg-options model.policy.pretrained=...), or remove '
                         '`--merge-lora`')
    elif lora is None:
        refuse_quantized(source, 'to be trained or exported', 'name the model that the checkpoint '
                         'was trained from')
    state = {name.removeprefix(_IN_CHECKPOINT): value
             for name, value in read_state_dict(checkpoint, _HINT).items()}
    with torch.device('meta'):
        model = AutoModelForImageTextToText.from_config(from_folder(AutoConfig, source, _HINT))
    if lora is None:
        LoadReport.of(model, state, checkpoint).settle(_HINT)
        _save_model(_filled(model, _as_dtype(state, dtype)), source, folder)
        return
    state = check_adapter(model, lora, state, checkpoint, merge_lora, _HINT)
    if not merge_lora:
        save_adapter(model, _as_dtype(state, dtype), lora, source, folder)
        return
    merged = load_merged(source, lora, state, _HINT)
    _save_model(merged.to(getattr(torch, dtype or policy.get('dtype', 'float32'))), source, folder)


def import_policy(folder: str, base: str | None = None) -> tuple[dict[str, Tensor], str | None]:
    """Convert the policy, or the adapter, in a folder to a checkpoint's ``state_dict``.

    Args:
        folder: A folder in Hugging Face format, or with a peft adapter.
        base: The base model of an adapter, a folder or a hub name; None for the one that its
            adapter_config.json names. Only its config.json is read.

    Returns:
        The state, and for an adapter the settings of ``model.policy`` that it needs, as code.

    Raises:
        FileNotFoundError: The folder has neither config.json nor adapter_config.json, or the base
            model does not exist.
        ValueError: The weights do not fit the model that config.json describes, are quantized, or
            an adapter lies beside them; or a policy does not support this kind of adapter.
    """
    if Path(folder, ADAPTER).is_file() and weight_file(Path(folder)) is None:
        return import_adapter(folder, base, _IN_CHECKPOINT)
    source = check_source('FOLDER', folder, EXAMPLE, processor=False,
                          tokenizer=False)
    refuse_quantized(source, 'to become a checkpoint', 'name the folder as '
                     '`model.policy.pretrained`')
    model = load_pretrained(AutoModelForImageTextToText, source, WEIGHTS_HINT, dtype='auto')
    return {_IN_CHECKPOINT + name: value for name, value in model.state_dict().items()}, None


def _filled(model: PreTrainedModel, state: dict[str, Tensor]) -> PreTrainedModel:
    """Fill a model on the meta device with these tensors, without copying them."""
    for name, twin in getattr(model, 'all_tied_weights_keys', {}).items():
        if state[name].equal(state[twin]):  # tied, and stored twice
            state[name] = state[twin]
    model.load_state_dict(state, assign=True)
    return model


def _save_model(model: PreTrainedModel, source: str, folder: Path) -> None:
    save_as_published(model, folder, max_shard_size=SHARD_SIZE)
    start = Path(source)
    if not start.is_dir():
        from huggingface_hub import snapshot_download
        start = Path(snapshot_download(source, ignore_patterns=list(_NOT_COPIED)))
    for path in start.iterdir():
        if path.is_file() and not any(map(path.match, _NOT_COPIED)):
            shutil.copy(path, folder)
    # Keep the start policy's config, so that any version of transformers that reads it can read
    # this one, but update the type, since `from_pretrained` converts the weights to it.
    config = json.loads((start / 'config.json').read_text(encoding='utf-8'))
    name = str(next(model.parameters()).dtype).removeprefix('torch.')
    for part in (config, config.get('text_config'), config.get('vision_config')):
        for key in ('dtype', 'torch_dtype'):
            if part and key in part:
                part[key] = name
    if not {'dtype', 'torch_dtype'} & config.keys():
        config['torch_dtype'] = name
    if not model.config.tie_word_embeddings:  # merging an adapter may have untied them
        config['tie_word_embeddings'] = False
        if 'tie_word_embeddings' in config.get('text_config', {}):
            config['text_config']['tie_word_embeddings'] = False
    (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')
    _name_ends(folder)


def _name_ends(folder: Path) -> None:
    """Name exactly the end tokens used in training in generation_config.json, so that other
    programs stop at them, and not at a tag within a response."""
    responses = PromptEncoder(str(folder), 'default', 1).responses
    missing = [token for token, named in responses.ends.items() if GENERATION_CONFIG not in named]
    tags = [token for token, named in responses.tag_ends.items() if GENERATION_CONFIG in named]
    if not (missing or tags):
        return
    path = folder / GENERATION_CONFIG
    content = read_json(str(folder), GENERATION_CONFIG) | dict(eos_token_id=list(responses.ends))
    path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
    if missing:
        print_log(f'{path}: added the end tokens {missing}, which the start policy names only in '
                  f'other files', logger='current')
    if tags:
        print_log(f'{path}: removed the end tokens {tags}, which are tags within a response',
                  logger='current')


def _as_dtype(state: dict[str, Tensor], dtype: str | None) -> dict[str, Tensor]:
    if dtype is None:
        return state
    return {name: value.to(getattr(torch, dtype)) for name, value in state.items()}
