# Copyright (c) mmdpad authors. Licensed under Apache-2.0.
"""Whether the files of a config's models are there and whole, without loading them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmdpad.engine.config_nodes import Node
from mmdpad.models import VLMReasoningHead
from mmdpad.models.decoders import DetectorDecoder, SAMDecoder
from mmdpad.models.decoders.hf_sam_decoder import HFSAMDecoder
from mmdpad.models.discriminators import CLIPDiscriminator
from mmdpad.models.discriminators.open_clip_loading import check_open_clip
from mmdpad.models.weights import find_folder

_INDEX, _SINGLE = 'model.safetensors.index.json', 'model.safetensors'
_PROCESSOR = ('preprocessor_config.json', 'processor_config.json')


def check_weights(node: Node) -> Iterator[str]:
    """What is wrong with the files of a model of ours; nothing for what is none."""
    for kind, check in _CHECKS.items():
        if isinstance(node.kind, type) and issubclass(node.kind, kind):
            yield from (f'`{node.path}`: {problem}' for problem in check(node.entry))


def check_weights_file(path: Path) -> str | None:
    """What is wrong with a file of weights, by its header and its length; None if nothing is.

    Args:
        path: safetensors, or what ``torch.save`` writes.
    """
    if not path.is_file():
        return f'{path} is not there; download it, or correct the path'
    fault = (_safetensors_fault(path) if path.suffix == '.safetensors' else
             None if zipfile.is_zipfile(path) or _is_old_pickle(path) else
             'is no file of torch.save, or cut short')
    return fault and f'{path} {fault}; download it again'


def _safetensors_fault(path: Path) -> str | None:
    size = path.stat().st_size
    with open(path, 'rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        if size < 8 or length > size - 8:
            return 'is no safetensors file, or cut short'
        try:
            header = json.loads(file.read(length))
            ends = [entry['data_offsets'][1] for name, entry in header.items()
                    if name != '__metadata__']
        except (ValueError, TypeError, KeyError, AttributeError):
            return 'has no header of a safetensors file'
    wanted = 8 + length + max(ends, default=0)
    return None if size == wanted else f'should have {wanted} bytes, but has {size}'


def _is_old_pickle(path: Path) -> bool:
    """The format of torch before 1.6, which some published files have."""
    with open(path, 'rb') as file:
        return file.read(1) == b'\x80'


def _check_hub_folder(entry: dict, tokenizer: bool) -> Iterator[str]:
    source = entry['pretrained']
    folder = find_folder(source)
    if folder is None:
        yield (f'`pretrained` should be a folder with the model, but {source!r} is not there, nor '
               f'a name in the cache of the hub; download it: `hf download NAME --local-dir '
               f'{source}`, or correct the path')
        return
    if not (folder / 'config.json').is_file():
        yield f'{folder} has no config.json; copy the whole folder'
    yield from _check_shards(folder)
    if not any((folder / name).is_file() for name in _PROCESSOR):
        yield f'{folder} has neither {" nor ".join(_PROCESSOR)}; copy the whole folder'
    if tokenizer and not ((folder / 'tokenizer.json').is_file() or all(
            (folder / name).is_file() for name in ('vocab.json', 'merges.txt'))):
        yield (f'{folder} has neither tokenizer.json nor vocab.json with merges.txt; copy the '
               f'whole folder')


def _check_shards(folder: Path) -> Iterator[str]:
    index = folder / _INDEX
    names = [_SINGLE]
    if index.is_file():
        try:
            names = sorted({*json.loads(index.read_text())['weight_map'].values()})
        except (ValueError, TypeError, KeyError, AttributeError):
            yield f'{index} should be JSON with a `weight_map`, but is not; download it again'
            return
    for name in names:
        if problem := check_weights_file(folder / name):
            yield problem


def _policy(entry: dict) -> Iterator[str]:
    yield from _check_hub_folder(entry, tokenizer=True)


def _hf_sam(entry: dict) -> Iterator[str]:
    yield from _check_hub_folder(entry, tokenizer=False)


def _checkpoint(entry: dict) -> Iterator[str]:
    if entry.get('checkpoint') is None:
        if not entry.get('allow_random'):
            yield '`checkpoint` should be a file, but got None; name one'
    elif problem := check_weights_file(Path(entry['checkpoint']).expanduser()):
        yield problem


def _clip(entry: dict) -> Iterator[str]:
    try:
        _, _, file = check_open_clip(entry['model_name'], entry.get('pretrained', 'openai'),
                                     entry.get('allow_random', False))
    except (ValueError, FileNotFoundError) as error:
        yield str(error)
    else:
        if file and (problem := check_weights_file(Path(file))):
            yield problem


_CHECKS: dict[type, Callable[[Any], Iterator[str]]] = {
    VLMReasoningHead: _policy, HFSAMDecoder: _hf_sam, SAMDecoder: _checkpoint,
    DetectorDecoder: _checkpoint, CLIPDiscriminator: _clip}
