# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Folders of policies as people have them, each with what should become of it.

A case is a function that changes a copy of a plain folder, in a module that
`tests/test_models/test_heads/test_published_folders.py` imports:

    @case('no generation_config.json')
    def _(folder: Path) -> None:
        (folder / 'generation_config.json').unlink()

Those here are in `folder_cases/`. Every case is asserted for the load and for `--dry-run`, which
have to agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """A folder and the verdict on it.

    Attributes:
        make: Changes a copy of the plain folder of :func:`mmdpad.toy.policy_folder
            .make_policy_folder`, in place.
        refused: A pattern that the error and the problem of the dry run hold (`re.search`); None
            where the folder is read.
        policy: Further entries of `model.policy`.
        training: Whether the verdict is that on a training, else on an evaluation.
        family: The `model_type` of the plain folder.
        same: Whether log-probabilities are those of the plain folder, to 1e-5; for what is read.
        needs: Packages without which the case is skipped.
        vocabulary: Of the plain folder, see there; 'qwen' where the tokenizer is rewritten.
        slow: Whether it is left to the slow tests, since another test has its like.
    """

    make: Callable[[Path], None]
    refused: str | None = None
    policy: dict[str, Any] = field(default_factory=dict)
    training: bool = True
    family: str = 'qwen2_5_vl'
    same: bool = True
    needs: tuple[str, ...] = ()
    vocabulary: str = 'toy'
    slow: bool = False


CASES: dict[str, Case] = {}
"""Name -> case."""


def case(name: str, **verdict: Any) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Adds a function that changes a folder to :data:`CASES`; arguments of :class:`Case`."""
    def add(make: Callable[[Path], None]) -> Callable[[Path], None]:
        assert name not in CASES, f'two cases are called {name!r}'
        CASES[name] = Case(make, **verdict)
        return make
    return add


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding='utf-8'))


def change_json(path: Path, /, *dropped: str, **entries: Any) -> None:
    """Sets and drops entries of a JSON file; a file that does not exist is made."""
    content = read_json(path) if path.exists() else {}
    content = {key: value for key, value in content.items() if key not in dropped} | entries
    path.write_text(json.dumps(content, indent=2), encoding='utf-8')


def shrink_tiles(folder: Path, side: int = 56) -> str:
    """Lets InternVL's processor make tiles of `side` pixels, in place of 448; 28 pixels are a
    token. The tower interpolates its position embeddings."""
    change_json(folder / 'preprocessor_config.json', size=dict(height=side, width=side))
    change_json(folder / 'processor_config.json', image_seq_length=(side // 28)**2)
    return str(folder)


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Rewrites `model.safetensors`."""
    path = folder / 'model.safetensors'
    save_file(change(load_file(path)), path, metadata=dict(format='pt'))


def move(folder: Path, name: str, other: str) -> None:
    (folder / name).rename(folder / other)


def as_bin(folder: Path) -> dict[str, Tensor]:
    """Drops model.safetensors; its weights, to be written by `torch.save`."""
    state = load_file(folder / 'model.safetensors')
    (folder / 'model.safetensors').unlink()
    return state


def in_shards(folder: Path, suffix: str) -> None:
    """Two files of weights and their index, as transformers names them."""
    state = as_bin(folder)
    names = sorted(state)
    halves = names[:len(names) // 2], names[len(names) // 2:]
    stem, weight_map = 'model' if suffix == 'safetensors' else 'pytorch_model', {}
    for number, half in enumerate(halves, 1):
        path = folder / f'{stem}-{number:05}-of-00002.{suffix}'
        part = {name: state[name] for name in half}
        if suffix == 'safetensors':
            save_file(part, path, metadata=dict(format='pt'))
        else:
            torch.save(part, path)
        weight_map |= dict.fromkeys(half, path.name)
    change_json(folder / f'{stem}.{suffix}.index.json', weight_map=weight_map,
                metadata=dict(total_size=sum(value.nbytes for value in state.values())))


def as_vocabulary(folder: Path) -> None:
    """tokenizer.json as vocab.json, merges.txt and a tokenizer_config.json of transformers 4."""
    content = read_json(folder / 'tokenizer.json')
    (folder / 'tokenizer.json').unlink()
    change_json(folder / 'vocab.json', **content['model']['vocab'])
    (folder / 'merges.txt').write_text('#version: 0.2\n' + ''.join(
        ' '.join(pair) + '\n' for pair in content['model']['merges']), encoding='utf-8')
    added = {str(token.pop('id')): token for token in content['added_tokens']}
    (folder / 'tokenizer_config.json').unlink()
    change_json(folder / 'tokenizer_config.json', add_prefix_space=False,
                added_tokens_decoder=added, bos_token=None, clean_up_tokenization_spaces=False,
                eos_token='<|im_end|>', errors='replace', model_max_length=131072,
                pad_token='<|endoftext|>', split_special_tokens=False,
                tokenizer_class='Qwen2Tokenizer', unk_token=None)


def as_flat(folder: Path) -> None:
    """config.json with the language model's entries outside, as first published."""
    config = read_json(folder / 'config.json')
    text = config.pop('text_config')
    rope = text.pop('rope_parameters')
    for name in ('model_type', 'layer_types', 'dtype'):
        text.pop(name, None)
    vision = config['vision_config']
    vision.pop('rope_parameters', None)
    vision['in_chans'], vision['spatial_patch_size'] = vision.pop('in_channels'), 14
    (folder / 'config.json').unlink()
    change_json(folder / 'config.json', **text | config | dict(
        rope_theta=rope['rope_theta'], torch_dtype='float32', transformers_version='4.41.2',
        rope_scaling=dict(type='mrope', mrope_section=rope['mrope_section'])))


def quantized(folder: Path, **settings: Any) -> None:
    """Weights and config.json of bitsandbytes, by transformers."""
    import transformers
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32,
        quantization_config=transformers.BitsAndBytesConfig(**settings))
    (folder / 'model.safetensors').unlink()
    model.save_pretrained(folder)
