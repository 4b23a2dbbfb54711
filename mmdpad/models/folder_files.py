# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Checks of the files in a folder in Hugging Face format, before weights are read.

Each problem is one line that names the file and the fix. Runs and dry runs share these functions
and so report the same problems.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ADAPTER = 'adapter_config.json'
CONFIG = 'config.json'
# In the order that transformers looks for them.
_WEIGHTS = ('model.safetensors', 'model.safetensors.index.json', 'pytorch_model.bin',
            'pytorch_model.bin.index.json')
_PROCESSOR = ('preprocessor_config.json', 'processor_config.json')
_VOCABULARY = ('vocab.json', 'merges.txt')
_TOKENIZER = 'tokenizer.json'
# Classes that only read tokenizer.json: they cannot build a tokenizer from a vocabulary.
_NEED_TOKENIZER = ('TokenizersBackend', 'PreTrainedTokenizerFast')
_TEXTS = (CONFIG, *_PROCESSOR, *_VOCABULARY, _TOKENIZER, 'tokenizer_config.json',
          'generation_config.json', 'chat_template.json', 'chat_template.jinja',
          'added_tokens.json', 'special_tokens_map.json', 'video_preprocessor_config.json')
_POINTER = b'version https://git-lfs.github.com/spec/'
_FETCH = ('is a Git LFS pointer, not the file itself; run `git lfs pull` in the folder, or '
          'download the file with `hf download`')
_COPY = 'copy it from the model that this one was trained from'
_UNFINISHED = '.cache/huggingface/**/*.incomplete'  # by `hf download --local-dir`
# What other programs leave in place of weights, and how to turn it into a model.
_UNMERGED = {
    _UNFINISHED: 'an unfinished download; run `hf download` again',
    'adapter_model.*': 'only an adapter; set `pretrained` to its base model and `load_from` to the '
                       'adapter, converted with tools/model_converters/from_hf.py',
    '**/model_world_size_*_rank_*.pt': 'FSDP shards of verl or EasyR1; merge them with that '
                                       "program's model merger",
    '../model_world_size_*_rank_*.pt': 'FSDP shards of verl or EasyR1 beside it; merge them with '
                                       "that program's model merger",
    'zero_to_fp32.py': 'a DeepSpeed checkpoint; run its zero_to_fp32.py',
    'global_step*': 'a DeepSpeed checkpoint; run its zero_to_fp32.py',
    'pytorch_model_fsdp*': 'FSDP shards; merge them with `accelerate merge-weights`',
    '*.gguf': 'a GGUF file, which is not supported; download the safetensors of the model',
    'consolidated*': "weights in the publisher's own format; download those for transformers"}


def file_problems(folder: Path, weights: bool = True, processor: bool = True,
                  tokenizer: bool = True) -> Iterator[str]:
    """Yield the problems with the files of a folder, one line each.

    Args:
        folder: An existing folder with a config.json.
        weights, processor, tokenizer: Whether these are required.
    """
    pointers = [name for name in _TEXTS if _is_pointer(folder / name)]
    yield from (f'{folder / name} {_FETCH}' for name in pointers)
    if weight_file(folder) or not weights:  # otherwise it is only an adapter
        yield from adapter_problems(folder)
    if weights:
        yield from weight_problems(folder)
    if processor and not any((folder / name).is_file() for name in _PROCESSOR):
        yield f'{folder} has neither {" nor ".join(_PROCESSOR)}; {_COPY}'
    if tokenizer and not (folder / _TOKENIZER).is_file():
        if not all((folder / name).is_file() for name in _VOCABULARY):
            yield f'{folder} has neither {_TOKENIZER} nor {" with ".join(_VOCABULARY)}; {_COPY}'
        elif (name := peek_json(folder / 'tokenizer_config.json').get('tokenizer_class')
              ) in _NEED_TOKENIZER:
            yield (f'{folder / "tokenizer_config.json"} names {name}, which needs {_TOKENIZER}, '
                   f'but there is none; {_COPY}')


def adapter_problems(folder: Path) -> Iterator[str]:
    """Report an adapter that lies beside a complete model."""
    if (folder / ADAPTER).is_file():
        yield (f'{folder / ADAPTER} lies beside the config.json of a complete model, so '
               f'transformers would silently add that adapter; delete or move it (and '
               f'adapter_model.*). To use the adapter, merge it into the weights, or move both '
               f'files to a separate folder and convert that to a checkpoint with '
               f'tools/model_converters/from_hf.py')


def weight_file(folder: Path) -> Path | None:
    """Find the weights file, or the index of its shards, that transformers would read."""
    return next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)


def weight_files(folder: Path) -> list[Path]:
    """List the files that hold the weights, including missing shards that the index names.

    Raises:
        ValueError: The index cannot be read.
    """
    found = weight_file(folder)
    if found is None:
        return []
    if found.suffix != '.json':
        return [found]
    try:
        return sorted({folder / name for name in load_json(found)['weight_map'].values()})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f'{found} should be JSON with a `weight_map`, but is not; download '
                         f'it again') from error


def weight_problems(folder: Path) -> Iterator[str]:
    """Yield the problems with the weights files of a folder."""
    found = weight_file(folder)
    if found is None:
        hint = next((f', but {text}' for pattern, text in _UNMERGED.items()
                     if any(folder.glob(pattern))), '; copy the whole folder')
        yield f'{folder} has no weights ({", ".join(_WEIGHTS)}){hint}'
        return
    index = found.with_name(f'{found.name}.index.json')
    if found.suffix != '.json' and index.is_file() and _names_others(index, found.name):
        yield (f'{folder} has two sets of weights, {found.name} and the files that {index.name} '
               f'lists, and it is unclear which to use; delete the outdated set')
        return
    try:
        files = weight_files(folder)
    except ValueError as error:
        yield str(error)
        return
    for path in files:
        if problem := check_weights_file(path):
            yield problem


def _names_others(index: Path, name: str) -> bool:
    names = peek_json(index).get('weight_map')
    return isinstance(names, dict) and {*names.values()} != {name}


def check_weights_file(path: Path) -> str | None:
    """Check a weights file by its header and length; return the problem, or None if it is fine.

    Args:
        path: A safetensors file, or one written by ``torch.save``.
    """
    if not path.is_file():
        unfinished = any(path.parent.glob(_UNFINISHED))
        return f'{path} does not exist; ' + (
            'its download is unfinished: run `hf download` again' if unfinished else
            'download it, or correct the path')
    if _is_pointer(path):
        return f'{path} {_FETCH}'
    if path.suffix == '.safetensors':
        fault = _safetensors_fault(path)
    else:
        fault = (None if zipfile.is_zipfile(path) or _is_old_pickle(path) else
                 'is not a torch.save file, or is truncated')
    return fault and f'{path} {fault}; download it again'


def read_header(path: Path) -> dict[str, Any]:
    """Read the ``dtype``, ``shape`` and ``data_offsets`` of each tensor in a safetensors file.

    Raises:
        ValueError: The header is invalid or truncated.
    """
    with open(path, 'rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        if length > path.stat().st_size - 8:
            raise ValueError('is not a safetensors file, or is truncated')
        try:
            header = json.loads(file.read(length))
            for name, entry in header.items():
                if name != '__metadata__':
                    entry['dtype'], entry['shape'], entry['data_offsets'][1]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError,
                RecursionError) as error:
            raise ValueError('has no valid safetensors header') from error
    header.pop('__metadata__', None)
    return header


def load_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, or holds something other than an object.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} should be a JSON file, but cannot be parsed ({error}); download '
                         f'it again') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} should hold a JSON object, but holds {type(content).__name__}; '
                         f'download it again')
    return content


def peek_json(path: Path) -> dict[str, Any]:
    """As :func:`load_json`, but return an empty dict for a missing or damaged file, which
    transformers reports itself."""
    try:
        return load_json(path)
    except (OSError, ValueError):
        return {}


def _safetensors_fault(path: Path) -> str | None:
    size = path.stat().st_size
    try:
        header = read_header(path)
    except ValueError as error:
        return str(error)
    with open(path, 'rb') as file:
        length = int.from_bytes(file.read(8), 'little')
    wanted = 8 + length + max((entry['data_offsets'][1] for entry in header.values()), default=0)
    return None if size == wanted else f'should have {wanted} bytes, but has {size}'


def _is_old_pickle(path: Path) -> bool:
    """Whether a file has the format of torch before 1.6, as some published files do."""
    with open(path, 'rb') as file:
        return file.read(1) == b'\x80'


def _is_pointer(path: Path) -> bool:
    """Whether a file is a Git LFS pointer, which a clone without LFS leaves behind."""
    if not path.is_file():
        return False
    with open(path, 'rb') as file:
        return file.read(len(_POINTER)) == _POINTER
