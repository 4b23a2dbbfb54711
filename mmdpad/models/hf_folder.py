# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Trained policies as folders in Hugging Face format, and such folders as checkpoints."""

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
from mmdpad.models.heads.lora import add_lora, lora_config
from mmdpad.models.heads.prompt_encoder import PromptEncoder
from mmdpad.models.heads.quantization import refuse_quantized
from mmdpad.models.heads.response_codec import GENERATION_CONFIG
from mmdpad.models.weights import (
    LoadReport,
    check_source,
    from_folder,
    load_pretrained,
    read_json,
    read_state_dict,
)

SHARD_SIZE = '5GB'
_IN_CHECKPOINT, _IN_PEFT = 'policy.model.', 'base_model.model.'  # before the names of transformers
_NOT_COPIED = ('*.safetensors', '*.safetensors.index.json', '*.bin', '*.bin.index.json', '*.pt',
               '*.pth', '*.gguf', '*.h5', '*.msgpack', 'README.md', '.*')
_REMEDY = ('The checkpoint should be of this config: `model.policy` (`pretrained`, `lora`) as in '
           'the run that wrote it')


def export_policy(checkpoint: str, policy: Mapping[str, Any], folder: Path, *,
                  merge_lora: bool = False, dtype: str | None = None) -> None:
    """Fill a folder with the policy of a checkpoint.

    A whole policy becomes what ``from_pretrained`` of transformers and vLLM read: safetensors in
    shards of at most 5 GB, under the names that the start policy's files use, and the start
    policy's config, tokenizer, processor and chat template as they are; the generation config too,
    but for ends of a response that only other files name. An adapter becomes what
    ``peft.PeftModel.from_pretrained`` reads.

    The checkpoint is mapped, not read into memory: this takes little more than a shard, or, to
    merge an adapter, the start policy in float32.

    Args:
        checkpoint: What ``tools/train.py`` wrote.
        policy: ``model.policy`` of its config.
        folder: An empty folder.
        merge_lora: Add the adapter to the weights under it, in float32.
        dtype: Of the weights in the folder; None for that of the checkpoint, or of ``policy``
            where an adapter is merged.

    Raises:
        FileNotFoundError: The start policy or the checkpoint is not there.
        ValueError: The checkpoint does not fit the config, or there is no adapter to merge.
    """
    lora = policy.get('lora')
    if merge_lora and lora is None:
        raise ValueError('`--merge-lora` should be given for a config with `model.policy.lora`, '
                         'but this one has none; leave it out')
    source = check_source('model.policy.pretrained', policy['pretrained'],
                          'Qwen/Qwen2.5-VL-7B-Instruct', merge_lora, processor=False,
                          tokenizer=False)
    if merge_lora:
        refuse_quantized(source, 'for an adapter to be merged into them', 'name the model that '
                         'was quantized (--cfg-options model.policy.pretrained=...), or leave '
                         '`--merge-lora` out')
    elif lora is None:
        refuse_quantized(source, 'to be trained or exported', 'name the model that the checkpoint '
                         'was trained from')
    state = {name.removeprefix(_IN_CHECKPOINT): value
             for name, value in read_state_dict(checkpoint, _REMEDY).items()}
    with torch.device('meta'):
        model = AutoModelForImageTextToText.from_config(from_folder(AutoConfig, source, _REMEDY))
    if lora is None:
        LoadReport.of(model, state, checkpoint).settle(_REMEDY)
        _save_model(_filled(model, _as_dtype(state, dtype)), source, folder)
        return
    add_lora(model, lora)
    LoadReport.of({name: p for name, p in model.named_parameters() if p.requires_grad}, state,
                  checkpoint).settle(_REMEDY)
    if not merge_lora:
        _save_adapter(_as_dtype(state, dtype), lora, source, folder)
        return
    whole = load_pretrained(AutoModelForImageTextToText, source, _REMEDY, dtype=torch.float32)
    add_lora(whole, lora)
    whole.load_state_dict(state, strict=False)
    _save_model(_merged(whole).to(getattr(torch, dtype or policy.get('dtype', 'float32'))),
                source, folder)


def import_policy(folder: str) -> dict[str, Tensor]:
    """The ``state_dict`` of a checkpoint with the policy, or the adapter, in a folder.

    Raises:
        FileNotFoundError: The folder has neither config.json nor adapter_config.json.
        ValueError: The weights do not fit the model that config.json describes, are quantized, or
            an adapter lies beside them.
    """
    if Path(folder, ADAPTER).is_file() and weight_file(Path(folder)) is None:
        state = read_state_dict(str(Path(folder, 'adapter_model.safetensors')),
                                'It should be beside adapter_config.json')
        return {_IN_CHECKPOINT + name.removeprefix(_IN_PEFT).removesuffix('.weight')
                + '.default.weight': value for name, value in state.items()}
    source = check_source('FOLDER', folder, 'Qwen/Qwen2.5-VL-7B-Instruct', processor=False,
                          tokenizer=False)
    refuse_quantized(source, 'to become a checkpoint', 'name the folder as '
                     '`model.policy.pretrained`')
    model = load_pretrained(AutoModelForImageTextToText, source,
                            'The folder should hold the weights of the model that its config.json '
                            'describes', dtype='auto')
    return {_IN_CHECKPOINT + name: value for name, value in model.state_dict().items()}


def _filled(model: PreTrainedModel, state: dict[str, Tensor]) -> PreTrainedModel:
    """A model without memory of its own, with these very tensors as weights."""
    for name, twin in getattr(model, 'all_tied_weights_keys', {}).items():
        if state[name].equal(state[twin]):  # tied, and stored twice
            state[name] = state[twin]
    model.load_state_dict(state, assign=True)
    return model


def _merged(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its adapter in the weights, and without peft's layers."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True)
            model.set_submodule(name, layer.get_base_layer())
    for attribute in ('peft_config', '_hf_peft_config_loaded'):
        model.__dict__.pop(attribute, None)
    return model


def _save_model(model: PreTrainedModel, source: str, folder: Path) -> None:
    model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    start = Path(source)
    if not start.is_dir():
        from huggingface_hub import snapshot_download
        start = Path(snapshot_download(source, ignore_patterns=list(_NOT_COPIED)))
    for path in start.iterdir():
        if path.is_file() and not any(map(path.match, _NOT_COPIED)):
            shutil.copy(path, folder)
    # The start policy's config as it is, since any version of transformers that reads that one
    # should read this one; but `from_pretrained` converts the weights to the type it names.
    config = json.loads((start / 'config.json').read_text(encoding='utf-8'))
    name = str(next(model.parameters()).dtype).removeprefix('torch.')
    for part in (config, config.get('text_config'), config.get('vision_config')):
        for key in ('dtype', 'torch_dtype'):
            if part and key in part:
                part[key] = name
    if not {'dtype', 'torch_dtype'} & config.keys():
        config['torch_dtype'] = name
    (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')
    _name_ends(folder)


def _name_ends(folder: Path) -> None:
    """Let generation_config.json name all tokens that ended responses in training, so that other
    programs stop there, too."""
    ends = PromptEncoder(str(folder), 'default', 1).responses.ends
    missing = [token for token, named in ends.items() if GENERATION_CONFIG not in named]
    if missing:
        path = folder / GENERATION_CONFIG
        content = read_json(str(folder), GENERATION_CONFIG) | dict(eos_token_id=list(ends))
        path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
        print_log(f'{path} names {missing} as ends of a response too, which the start policy has '
                  f'in other files only', logger='current')


def _save_adapter(state: dict[str, Tensor], lora: Mapping[str, Any], source: str,
                  folder: Path) -> None:
    from safetensors.torch import save_file
    config = lora_config(lora)
    is_folder = Path(source).is_dir()
    config.base_model_name_or_path = str(Path(source).resolve()) if is_folder else source
    config.inference_mode = True
    config.save_pretrained(str(folder))
    save_file({_IN_PEFT + name.replace('.default.', '.'): value.contiguous()
               for name, value in state.items()},
              folder / 'adapter_model.safetensors', metadata=dict(format='pt'))


def _as_dtype(state: dict[str, Tensor], dtype: str | None) -> dict[str, Tensor]:
    if dtype is None:
        return state
    return {name: value.to(getattr(torch, dtype)) for name, value in state.items()}
