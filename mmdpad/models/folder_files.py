# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""The files of a folder in Hugging Face format, looked at before anything is read from them.

Each problem is one line that names the file and what to do. A run and its dry run ask the same
functions, so they say the same.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ADAPTER = 'adapter_config.json'
CONFIG = 'config.json'
# In the order in which transformers looks for them.
_WEIGHTS = ('model.safetensors', 'model.safetensors.index.json', 'pytorch_model.bin',
            'pytorch_model.bin.index.json')
_PROCESSOR = ('preprocessor_config.json', 'processor_config.json')
_VOCABULARY = ('vocab.json', 'merges.txt')
_TOKENIZER = 'tokenizer.json'
_WHOLE = ('TokenizersBackend', 'PreTrainedTokenizerFast')  # classes that build no tokenizer
_TEXTS = (CONFIG, *_PROCESSOR, *_VOCABULARY, _TOKENIZER, 'tokenizer_config.json',
          'generation_config.json', 'chat_template.json', 'chat_template.jinja',
          'added_tokens.json', 'special_tokens_map.json', 'video_preprocessor_config.json')
_POINTER = b'version https://git-lfs.github.com/spec/'
_FETCH = ('is a pointer of Git LFS in place of the file; run `git lfs pull` in the folder, or '
          'download it by `hf download`')
_UNFINISHED = '.cache/huggingface/**/*.incomplete'  # by `hf download --local-dir`
# What other programs leave where no weights are, and what makes a model of it.
_UNMERGED = {
    _UNFINISHED: 'a download that has not ended; run `hf download` again',
    'adapter_model.*': 'an adapter alone; name its base as `pretrained`, and the adapter as '
                       '`load_from` (tools/model_converters/from_hf.py)',
    '**/model_world_size_*_rank_*.pt': 'the parts of an FSDP run of verl or EasyR1; merge them by '
                                       "that program's model merger",
    '../model_world_size_*_rank_*.pt': 'the parts of an FSDP run of verl or EasyR1, beside it; '
                                       "merge them by that program's model merger",
    'zero_to_fp32.py': 'a checkpoint of DeepSpeed; run its zero_to_fp32.py',
    'global_step*': 'a checkpoint of DeepSpeed; run its zero_to_fp32.py',
    'pytorch_model_fsdp*': 'the parts of an FSDP run; merge them by `accelerate merge-weights`',
    '*.gguf': 'a GGUF file, which is not read; download the safetensors of the model',
    'consolidated*': "weights in their makers' own format; download those for transformers"}


def file_problems(folder: Path, weights: bool = True, processor: bool = True,
                  tokenizer: bool = True) -> Iterator[str]:
    """What is wrong with the files of a folder that has a config.json, a line each.

    Args:
        folder: Is there, with its config.json.
        weights, processor, tokenizer: Whether these have to be there.
    """
    pointers = [name for name in _TEXTS if _is_pointer(folder / name)]
    yield from (f'{folder / name} {_FETCH}' for name in pointers)
    if weight_file(folder) or not weights:  # else it is an adapter alone
        yield from adapter_problems(folder)
    if weights:
        yield from weight_problems(folder)
    if processor and not any((folder / name).is_file() for name in _PROCESSOR):
        yield (f'{folder} has neither {" nor ".join(_PROCESSOR)}; copy the file from the model '
               f'that this one was trained from')
    if tokenizer and not (folder / _TOKENIZER).is_file():
        if not all((folder / name).is_file() for name in _VOCABULARY):
            yield (f'{folder} has neither {_TOKENIZER} nor {" with ".join(_VOCABULARY)}; copy the '
                   f'file from the model that this one was trained from')
        elif (name := peek_json(folder / 'tokenizer_config.json').get('tokenizer_class')) in _WHOLE:
            yield (f'tokenizer_config.json of {folder} names {name}, which needs {_TOKENIZER}, '
                   f'which is not there; copy it from the model that this one was trained from')


def adapter_problems(folder: Path) -> Iterator[str]:
    """What is wrong with a folder of a whole model that holds an adapter, too."""
    if (folder / ADAPTER).is_file():
        yield (f'{folder / ADAPTER} lies beside the config.json of a whole model, to which '
               f'transformers would add that adapter and say nothing; delete or move it (and '
               f'adapter_model.*), or, if the adapter is wanted, merge it into the weights, or '
               f'move both to a folder of their own and make a checkpoint of that by '
               f'tools/model_converters/from_hf.py')


def weight_file(folder: Path) -> Path | None:
    """The file, or the index of files, that transformers takes the weights from; None without."""
    return next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)


def weight_files(folder: Path) -> list[Path]:
    """The files that the weights are in, whether they are there or not; empty without any.

    Raises:
        ValueError: The index is none.
    """
    found = weight_file(folder)
    if found is None:
        return []
    if found.suffix != '.json':
        return [found]
    try:
        names = {*json.loads(found.read_text(encoding='utf-8'))['weight_map'].values()}
        return sorted(folder / name for name in names)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f'{found} should be JSON with a `weight_map`, but is not; download it '
                         f'again') from error


def weight_problems(folder: Path) -> Iterator[str]:
    """What is wrong with the files of weights in a folder."""
    found = weight_file(folder)
    if found is None:
        hint = next((f', but {text}' for pattern, text in _UNMERGED.items()
                     if any(folder.glob(pattern))), '; copy the whole folder')
        yield f'{folder} has no weights ({", ".join(_WEIGHTS)}){hint}'
        return
    index = found.with_name(f'{found.name}.index.json')
    if found.suffix != '.json' and index.is_file() and _names_others(index, found.name):
        yield (f'{folder} has weights twice, {found.name} and what {index.name} names, and nothing '
               f'says which are meant; delete the older ones')
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
    """What is wrong with a file of weights, by its header and its length; None if nothing is.

    Args:
        path: safetensors, or what ``torch.save`` writes.
    """
    if not path.is_file():
        unfinished = any(path.parent.glob(_UNFINISHED))
        return f'{path} is not there; ' + ('a download there has not ended: run `hf download` again'
                                           if unfinished else 'download it, or correct the path')
    if _is_pointer(path):
        return f'{path} {_FETCH}'
    if path.suffix == '.safetensors':
        fault = _safetensors_fault(path)
    else:
        fault = (None if zipfile.is_zipfile(path) or _is_old_pickle(path) else
                 'is no file of torch.save, or cut short')
    return fault and f'{path} {fault}; download it again'


def read_header(path: Path) -> dict[str, Any]:
    """Name -> ``dtype``, ``shape`` and ``data_offsets`` of the tensors in a safetensors file.

    Raises:
        ValueError: It has no such header.
    """
    with open(path, 'rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        if length > path.stat().st_size - 8:
            raise ValueError('is no safetensors file, or cut short')
        try:
            header = json.loads(file.read(length))
            for name, entry in header.items():
                if name != '__metadata__':
                    entry['dtype'], entry['shape'], entry['data_offsets'][1]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError,
                RecursionError) as error:
            raise ValueError('has no header of a safetensors file') from error
    header.pop('__metadata__', None)
    return header


def peek_json(path: Path) -> dict[str, Any]:
    """The entries of a JSON file; none where there is no such file, or a damaged one (of which
    transformers tells)."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


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
    """The format of torch before 1.6, which some published files have."""
    with open(path, 'rb') as file:
        return file.read(1) == b'\x80'


def _is_pointer(path: Path) -> bool:
    """Whether Git left its pointer in place of a file, as a clone without LFS does."""
    if not path.is_file():
        return False
    with open(path, 'rb') as file:
        return file.read(len(_POINTER)) == _POINTER
